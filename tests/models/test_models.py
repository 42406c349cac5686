"""Tokenizers trained on the corpus, models from scratch, and losses at label tokens alone."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import ray
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from support.corpora import example, write_corpus
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import ModelConfig
from s2l_ray.corpus.tokenizer import load_tokenizer, prepare_tokenizer
from s2l_ray.models import loss as models
from s2l_ray.models.loading import initial_model, load_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.properties import learned_positions, steady_positions
from s2l_ray.store import Store
from s2l_ray.training import engines

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
    return ModelConfig(architecture=TINY | fields, tokenizer_vocab=320)


@pytest.fixture
def tokenizer(store):
    corpus = write_corpus(store, EXAMPLES)
    prepare_tokenizer(store, config_of(), corpus, folder="tokenizer")
    return load_tokenizer(store, "tokenizer")


def test_any_text_comes_back(tokenizer):
    assert len(tokenizer) == 320
    assert tokenizer.eos_token == "<|endoftext|>"
    texts = [
        "",
        "the candle  of the dragon",
        " leading, trailing \n\n\ttabs\r\n",
        "naïve Größe 東京 🦜👩‍👩‍👧 \u0000 \u200f עברית e\u0301",
        "don't . , ! he 's 1234567890",
        "".join(map(chr, range(1, 0x250))),
    ]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id not in ids
    assert len(tokenizer("the candle of the dragon")["input_ids"]) < 15  # it learnt something
    assert len(tokenizer("2024")["input_ids"]) == 4  # a token a digit


def test_same_corpus_same_tokenizer(local_ray, store, tmp_path):
    """In this process and in another, byte for byte; another corpus has another."""

    def digests(root, examples):
        there = Store(root)
        corpus = write_corpus(there, examples)
        prepare_tokenizer(there, config_of(), corpus, folder="tokenizer")
        files = sorted(Path(there.address("tokenizer")).iterdir())
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    for module in ("conftest", __name__):  # workers cannot import these
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])
    far = ray.remote(digests).remote(str(tmp_path / "far"), EXAMPLES)
    here = digests(store.uri, EXAMPLES)
    assert "tokenizer.json" in here
    assert here == ray.get(far)
    assert here["tokenizer.json"] != digests(tmp_path / "other", EXAMPLES[9:])["tokenizer.json"]


def test_a_tokenizer_that_is_there_is_not_made_again(store):
    first = write_corpus(store, EXAMPLES, folder="corpus/first")
    other = write_corpus(store, [example("ä" * 9, "ö" * 9)], folder="corpus/other")
    prepare_tokenizer(store, config_of(), first, folder="tokenizer")
    before = store.read_bytes("tokenizer", "tokenizer.json")
    prepare_tokenizer(store, config_of(), other, folder="tokenizer")
    assert store.read_bytes("tokenizer", "tokenizer.json") == before


def test_a_tokenizer_from_a_folder(store, tokenizer):
    corpus = store.manifest("corpus/test")
    config = ModelConfig(architecture=TINY, tokenizer=store.address("tokenizer"))
    prepare_tokenizer(store, config, corpus, folder="copied")
    text = "the anchor 3 ü"
    assert load_tokenizer(store, "copied")(text) == tokenizer(text)


def test_initial_model_is_the_seed_s(tokenizer):
    torch.manual_seed(1)
    first = initial_model(config_of(), tokenizer, seed=7).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))  # the caller's random numbers are its own
    second = initial_model(config_of(), tokenizer, seed=7).state_dict()
    other = initial_model(config_of(), tokenizer, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert first["lm_head.weight"].shape == (320, 32)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}


def test_initial_model_s_config(tokenizer):
    config = initial_model(config_of(rope_theta=500.0, vocab_size=384), tokenizer, seed=0).config
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.vocab_size == 384
    assert config.rope_parameters["rope_theta"] == 500.0  # an older name that transformers takes
    gpt2 = ModelConfig(
        architecture={"model_type": "gpt2", "hidden_size": 32, "num_attention_heads": 2,
                      "num_hidden_layers": 1},
        tokenizer_vocab=320,
    )  # fmt: skip
    assert initial_model(gpt2, tokenizer, seed=0).config.n_embd == 32
    with pytest.raises(ValueError, match=r"llama has no field hiden_size, layers$"):
        initial_model(config_of(layers=3, hiden_size=64), tokenizer, seed=0)
    with pytest.raises(ValueError, match="found vocab_size 100, expected at least 320"):
        initial_model(config_of(vocab_size=100), tokenizer, seed=0)


def test_a_pretrained_model_is_loaded_as_it_is(store, tokenizer):
    model = initial_model(config_of(), tokenizer, seed=7).to(torch.bfloat16)
    model.save_pretrained(store.address("folder"))
    loaded = initial_model(ModelConfig(name=store.address("folder")), tokenizer, seed=1)
    assert loaded.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.float())
    assert load_model(store.address("folder"), dtype="bfloat16").dtype == torch.bfloat16


def random_batch(vocab=320):
    torch.manual_seed(3)
    ids_BL = torch.randint(0, vocab, (5, 17))
    mask_BL = torch.rand(5, 17) < 0.5
    mask_BL[:, 0] = False
    return ids_BL, mask_BL


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("at_once", [1, 7 * 320, models.LOGITS_AT_ONCE])
def test_losses_and_gradients_do_not_depend_on_chunks(tokenizer, monkeypatch, at_once, tied):
    model = initial_model(config_of(tie_word_embeddings=tied), tokenizer, seed=7)
    ids_BL, mask_BL = random_batch()
    logits_BLV = model(input_ids=ids_BL).logits
    every_BL = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), ids_BL[:, 1:], reduction="none")
    expected = every_BL[mask_BL[:, 1:]]
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(models, "LOGITS_AT_ONCE", at_once)
    loss = LabelLoss(model)
    assert loss.head_apart
    calls = []
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: calls.append(1))
    losses = loss(ids_BL, mask_BL)
    rows = {1: 1, 7 * 320: 7}.get(at_once, 1 << 20)
    assert len(calls) == -(-len(expected) // rows)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    losses.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


def test_the_backward_pass_can_compute_the_logits_again(tokenizer, monkeypatch):
    monkeypatch.setattr(models, "LOGITS_AT_ONCE", 7 * 320)
    batch, found, kept = random_batch(), [], []
    for recompute in (False, True):
        model = initial_model(config_of(), tokenizer, seed=7)
        loss, held = LabelLoss(model, recompute=recompute).train(), []
        model.get_output_embeddings().register_forward_hook(lambda *_, held=held: held.append(1))
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, held=held: held.append(tensor.shape) or tensor, lambda tensor: tensor
        ):
            losses = loss(*batch)
        kept.append(sum(shape[-1:] == (320,) for shape in held if shape != 1))
        calls = held.count(1)
        losses.sum().backward()
        assert held.count(1) == calls * (2 if recompute else 1)
        found.append([losses.detach(), *(weights.grad for weights in model.parameters())])
    assert kept[0] >= 5 > kept[1] == 0  # logits, or what the loss keeps of them
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_zero_3_has_one_call_of_the_head_on_every_worker(tokenizer, monkeypatch):
    """Workers with more and with fewer label tokens would otherwise wait for one another."""
    model = initial_model(config_of(), tokenizer, seed=7)
    loss, batch = LabelLoss(model), random_batch()
    expected = loss(*batch)
    monkeypatch.setattr(models, "LOGITS_AT_ONCE", 1)
    calls = []
    loss.head.register_forward_pre_hook(lambda *_: calls.append(1))
    loss(*batch)
    assert len(calls) == len(expected)
    calls.clear()
    loss.head.weight.ds_id = 0  # what DeepSpeed marks partitioned weights with
    assert torch.equal(loss(*batch), expected)
    assert len(calls) == 1


def test_what_text_does_not_reach_is_not_trained():
    """DDP waits for a gradient of each weight that is."""
    text = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
              "intermediate_size": 64, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    loss = LabelLoss(AutoModelForCausalLM.from_config(config))
    loss(*random_batch()).sum().backward()
    trained = {name for name, weights in loss.named_parameters() if weights.requires_grad}
    assert trained == {n for n, weights in loss.named_parameters() if weights.grad is not None}
    others = {name for name, _ in loss.named_parameters()} - trained
    assert others and all("vision" in name or "projector" in name for name in others)


def test_a_pretrained_model_that_lacks_a_weight_is_refused(tokenizer, tmp_path):
    initial_model(config_of(tie_word_embeddings=False), tokenizer, seed=0).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"not a complete model: missing weights lm_head\.weight"):
        initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=0)


def test_a_model_whose_attention_is_not_causal_is_refused():
    bert = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "initializer_range": 0.5}  # fmt: skip

    def model(**more):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **bert, **more))

    with pytest.raises(
        ValueError, match="attention of this bert is not causal; use a decoder model"
    ):
        LabelLoss(model())
    LabelLoss(model(is_decoder=True))


@pytest.mark.parametrize(
    ("kind", "positions"), [("llama", None), ("gpt_neox", None), ("gpt2", 64), ("opt", 64)]
)
def test_positions_of_models_that_learn_them(tokenizer, kind, positions):
    shape = {"model_type": kind, "vocab_size": 512, "max_position_embeddings": 64}
    shape |= {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = initial_model(ModelConfig(architecture=shape, tokenizer_vocab=320), tokenizer, seed=7)
    assert learned_positions(model) == positions


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "linear", "factor": 2.0}, None),
        ({"rope_type": "dynamic", "factor": 2.0}, 64),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
          "original_max_position_embeddings": 16}, 16),
    ],
)  # fmt: skip
def test_beyond_which_length_a_loss_would_depend_on_the_batch(tokenizer, rope, positions):
    """The longest example beside it decides about its rotary embeddings there, as a trial shows."""
    model = initial_model(config_of(rope_parameters={"rope_theta": 1e4} | rope), tokenizer, seed=7)
    model.eval()
    assert steady_positions(model) == positions
    ids_1L = torch.arange(12)[None]

    def hidden(longest):
        rows = torch.cat([F.pad(ids_1L, (0, longest - 12)), torch.ones(1, longest).long()])
        with torch.no_grad():
            return model.base_model(input_ids=rows, use_cache=False).last_hidden_state[0, :12]

    limit = positions or 64
    torch.testing.assert_close(hidden(12), hidden(limit))
    assert torch.allclose(hidden(12), hidden(limit + 8)) == (positions is None)


def test_a_model_of_quantized_weights_is_refused_before_anything_is_trained(store, tokenizer):
    model = initial_model(config_of(), tokenizer, seed=0)
    model.save_pretrained(store.address("folder"))
    tokenizer.save_pretrained(store.address("folder"))
    file = Path(store.address("folder"), "config.json")
    quantized = {"quantization_config": {"quant_method": "fp8"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | quantized))
    config = ModelConfig(name=store.address("folder"))
    with pytest.raises(ValueError, match=r"cannot be used .* got quantized ones \(fp8\)"):
        prepare_tokenizer(store, config, store.manifest("corpus/test"), folder="other")
    with pytest.raises(
        ValueError, match="folder: expected full-precision weights"
    ):  # where its tokenizer was there already
        initial_model(config, tokenizer, seed=0)


def test_a_model_that_a_node_has_no_right_to_is_told(tokenizer, tmp_path, monkeypatch):
    gated = GatedRepoError.__new__(GatedRepoError)  # which otherwise takes an answer of the hub

    def load(*_, **__):
        raise OSError("You are trying to access a gated repo") from gated

    initial_model(config_of(), tokenizer, seed=0).save_pretrained(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(ValueError, match=r"node .* cannot read .* HF_TOKEN .* gated repo"):
        initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=0)
    gated = None  # a full disk, or a hub that does not answer, is no such thing
    with pytest.raises(OSError, match="You are"):
        initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=0)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_that_share_a_buffer_are_saved_each(tokenizer, tmp_path, tied):
    """ZeRO 1 and 2 keep all weights of a model in one. (That they are copied from a GPU first is
    not shown here.)"""
    loss = LabelLoss(initial_model(config_of(tie_word_embeddings=tied), tokenizer, seed=7))
    wanted = {name: weights.clone() for name, weights in loss.model.state_dict().items()}
    parameters = list(loss.parameters())
    flat = torch.cat([weights.detach().flatten() for weights in parameters])
    for weights, share in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        weights.data = share.view_as(weights)
    engines._save_weights(loss, loss.state_dict(), str(tmp_path))
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    found = load_model(tmp_path).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_model_that_brings_code_is_refused_before_anything_is_trained(store, tokenizer, tmp_path):
    folder = tmp_path / "strange"
    tokenizer.save_pretrained(folder)
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "config.Strange"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "config.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    examples = write_corpus(store, EXAMPLES[:3])
    with pytest.raises(ValueError, match=r"strange' cannot be used .*code .* is never run"):
        prepare_tokenizer(store, ModelConfig(name=str(folder)), examples, folder="other")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["llama", "phi"])  # phi's head has a bias
@pytest.mark.parametrize("block", [1, 100, 2048])
def test_scoring_s_losses_do_not_depend_on_blocks_of_the_vocabulary(
    tokenizer, monkeypatch, block, kind
):
    model = initial_model(config_of(model_type=kind), tokenizer, seed=7).eval()
    head = model.get_output_embeddings()
    assert (head.bias is not None) == (kind == "phi")
    with torch.no_grad():
        head.weight.mul_(50)  # losses far apart
        if head.bias is not None:
            head.bias.normal_()
    ids_BL, mask_BL = random_batch()
    logits_BLV = model(input_ids=ids_BL).logits
    every_BL = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), ids_BL[:, 1:], reduction="none")
    monkeypatch.setattr(models, "VOCABULARY_BLOCK", block)
    loss = LabelLoss(model)
    assert loss.head_apart
    with torch.inference_mode():
        losses = loss(ids_BL, mask_BL)
    expected = every_BL[mask_BL[:, 1:]].detach()
    assert expected.std() > 1
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gemma2", {"final_logit_softcapping": 30.0, "head_dim": 8}),
        ("granite", {"logits_scaling": 2.0}),
        ("cohere", {"logit_scale": 0.5}),
    ],
)
def test_heads_that_are_not_apart_are_told_on_fresh_weights(tokenizer, kind, fields):
    """Fresh logits are so small that a soft cap changes them by less than a millionth."""
    model = initial_model(config_of(model_type=kind, **fields), tokenizer, seed=7)
    loss = LabelLoss(model)
    assert not loss.head_apart
    ids_BL, mask_BL = random_batch()
    logits_BLV = model(input_ids=ids_BL).logits
    expected = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), ids_BL[:, 1:], reduction="none")
    torch.testing.assert_close(loss(ids_BL, mask_BL), expected[mask_BL[:, 1:]])
    without = initial_model(
        config_of(model_type="gemma2", final_logit_softcapping=None, head_dim=8), tokenizer, seed=7
    )
    assert LabelLoss(without).head_apart
