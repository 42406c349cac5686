"""Small models, tokenizers and tokens."""

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import ModelConfig
from s2l_ray.corpus.tokenizer import load_tokenizer, prepare_tokenizer
from s2l_ray.store.schemas import TOKENS
from support.corpora import example, write_corpus

VOCAB = 300


SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}


SHAPES = {
    "gpt_neox": SMALL,
    "llama": GROUPED,
    "gemma2": GROUPED | {"final_logit_softcapping": 5.0, "sliding_window": 16},
    "granite": GROUPED | {"logits_scaling": 4.0},
    "phi": SMALL,  # its head has a bias
}


def small_model(kind, seed=0):
    """A model whose losses differ much from example to example: weights larger than fresh ones."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPES[kind]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter) * 0.05)
    return model.float().eval()


def random_tokens(count, seed=0, first_id=0):
    """Examples of 2 to 40 tokens, labels here and there (several turns); every fifth has none."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        length = int(random.integers(2, 41))
        mask = random.random(length) < 0.6
        mask[0], mask[-1] = False, True
        if number % 5 == 4:
            mask[:] = False
        rows.append(
            {
                "example_id": first_id + number,
                "input_ids": random.integers(0, VOCAB, length).tolist(),
                "loss_mask": mask.tolist(),
                "num_label_tokens": int(mask.sum()),
                "truncated": False,
            }
        )
    return pa.Table.from_pylist(rows, schema=TOKENS)


TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}

WORDS = ["anchor", "basket", "candle", "dragon", "engine", "forest", "garden", "hammer", "island"]
WORDS += ["jacket", "kettle", "ladder", "marble", "needle", "orange"]
EXAMPLES = [example(f"{a} of {b}", f"the {b} and the {a}") for a in WORDS for b in WORDS]


def config_of(**fields):
    """A tiny model from scratch; changes to its architecture."""
    return ModelConfig(architecture=TINY | fields, tokenizer_vocab=320)


def tiny_tokenizer(store):
    """A tokenizer trained on EXAMPLES, which the store keeps as a corpus."""
    corpus = write_corpus(store, EXAMPLES)
    prepare_tokenizer(store, config_of(), corpus, folder="tokenizer")
    return load_tokenizer(store, "tokenizer")


def random_batch(vocab=320):
    torch.manual_seed(3)
    ids_BL = torch.randint(0, vocab, (5, 17))
    mask_BL = torch.rand(5, 17) < 0.5
    mask_BL[:, 0] = False
    return ids_BL, mask_BL
