"""BLEU and ROUGE-L by hand, BERTScore from a model's own vectors."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from s2l_ray.evaluation.text_metrics import bert_score, bleu, bleu_counts, rouge_l


def test_bleu_by_hand():
    # "the" counts once, since the reference has it once.
    one = bleu_counts(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert one == [6, 6, 5, 3, 2, 1, 6, 5, 4, 3]
    assert bleu(one) == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))
    # All n-grams match, but the text is too short.
    short = bleu_counts(["the cat sat on"], ["the cat sat on the mat"])
    assert bleu(short) == pytest.approx(100 * math.exp(1 - 6 / 4))
    # Of both together: counts are added, scores are not averaged.
    both = [a + b for a, b in zip(one, short, strict=True)]
    expected = 100 * math.exp(1 - 12 / 10) * (9 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** (1 / 4)
    assert bleu(both) == pytest.approx(expected)
    assert bleu_counts([], []) == [0] * 10 and bleu([0] * 10) == 0


def test_rouge_l_by_hand():
    # The longest common subsequence is "the cat": precision 2/3, recall 2/4.
    assert rouge_l(["the cat sat", "", "A b"], ["the cat ran fast", "a", "a B"]) == pytest.approx(
        [2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 0, 1]
    )


@pytest.fixture
def bert(tmp_path):
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["the", "cat", "sat", "on", "mat", "dog", "ran"],
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 16}
    config = BertConfig(vocab_size=len(words), **sizes)
    BertModel(config).save_pretrained(tmp_path)
    return str(tmp_path)


def test_bert_score_matches_each_token_with_the_nearest(bert):
    texts = ["the cat sat", "dog ran", "", "the cat " * 40]  # the last is cut to fit the model
    references = ["the dog ran on", "dog ran", "cat", "the cat " * 40]
    found = bert_score(texts, references, bert, 2)
    assert found[1:] == pytest.approx([1, 0, 1], abs=1e-6)

    model, tokenizer = (
        BertModel.from_pretrained(bert).eval(),
        BertTokenizerFast.from_pretrained(bert),
    )

    def vectors(text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[2][0]
        return torch.nn.functional.normalize(hidden, dim=-1)

    alike = vectors(texts[0]) @ vectors(references[0]).T
    precision = alike.max(1).values[1:-1].mean().item()  # the ends of a text have no weight
    recall = alike.max(0).values[1:-1].mean().item()
    assert found[0] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


def test_what_bert_score_cannot_be_measured_with_is_named(bert, tmp_path):
    with pytest.raises(ValueError, match=r"evaluation\.bert_score_layer: .*between 0 and 3"):
        bert_score(["the"], ["cat"], bert, 4)
    with pytest.raises(ValueError, match=r"evaluation\.bert_score_model: .*nothing"):
        bert_score(["the"], ["cat"], str(tmp_path / "nothing"), 1)
