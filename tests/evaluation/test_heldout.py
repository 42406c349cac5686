"""Held-out loss by hand; what is evaluated on."""

import json
import math

import datasets
import numpy as np
import pyarrow as pa
import pytest
from support.corpora import example, write_corpus
from support.evaluation import CORPUS, sources_of, turns_of

from s2l_ray.analysis.examples import GROUPS, variance
from s2l_ray.config import EvaluationConfig
from s2l_ray.evaluation.exact_match import answer_sets
from s2l_ray.evaluation.heldout import (
    by_file,
    heldout_examples,
    influences,
    read_losses,
    summarise,
    summarise_answers,
)
from s2l_ray.store.schemas import LOSSES

# response -> (source, mean loss, label tokens); None: no label token left, so no loss
GIVEN = {
    "r0": ("a", 2.0, 1),
    "r1": ("a", 1.0, 3),
    "r2": ("b", 4.0, 2),
    "r3": ("b", None, 0),
    "r4": ("c", 0.5, 10),
}


def stages(store, given, name):
    """A committed set of examples over two parts, and their losses under one checkpoint."""
    examples = write_corpus(
        store,
        [example(f"p {response}", response, source) for response, (source, *_) in given.items()],
        num_parts=2,
        folder=f"corpus/{name}",
    )
    parts = []
    for part in examples.parts:
        rows = [
            {"example_id": row["example_id"], "loss": loss, "num_label_tokens": count}
            for row in store.read_part(examples.folder, part).to_pylist()
            for _, loss, count in [given[row["turns"][1]["text"]]]
            if loss is not None
        ]
        table = pa.Table.from_pylist(rows, schema=LOSSES)
        parts.append(store.write_part(table, f"losses/{name}", f"step-000010/{part.unit}"))
    return examples, store.commit(f"losses/{name}", "f", parts, {"steps": [10]})


def test_the_loss_is_a_mean_over_response_tokens(store):
    result = summarise(read_losses(store, [stages(store, GIVEN, "heldout")]))
    assert result["by_source"] == {
        "a": pytest.approx((2 * 1 + 1 * 3) / 4),
        "b": pytest.approx(4),
        "c": pytest.approx(0.5),
    }
    assert result["loss"] == pytest.approx((2 * 1 + 1 * 3 + 4 * 2 + 0.5 * 10) / 16)
    assert result["macro"] == pytest.approx((5 / 4 + 4 + 0.5) / 3)
    assert result["label_tokens"] == 16
    assert list(result["by_source"]) == ["a", "b", "c"]
    assert result["examples_by_source"] == {"a": 2, "b": 1, "c": 1}
    json.dumps(result)


def test_several_held_out_sets_count_together(store):
    more = {"x0": ("a", 5.0, 6), "x1": ("d", 3.0, 2)}
    both = [stages(store, GIVEN, "heldout"), stages(store, more, "extra")]
    result = summarise(read_losses(store, both))
    assert result["by_source"]["a"] == pytest.approx((2 + 3 + 30) / 10)
    assert result["by_source"]["d"] == pytest.approx(3)
    assert result["loss"] == pytest.approx((2 + 3 + 8 + 5 + 30 + 6) / 24)


def test_errors_over_examples_are_those_of_examples_drawn_again(store):
    draw = np.random.default_rng(0)
    count = 300
    source = draw.choice(["a", "b", "c"], count, p=[0.6, 0.3, 0.1])
    labels = draw.integers(1, 60, count)
    losses = draw.gamma(2.0, 1.0, (2, count)).astype("f4") + 0.03 * labels.astype("f4")

    def scores(target):
        given = {
            f"r{n}": (source[n], float(losses[target, n]), int(labels[n])) for n in range(count)
        }
        return read_losses(store, [stages(store, given, f"target{target}")])

    def errors(mine, other):
        ours, theirs = (influences(each, ["heldout"]) for each in (mine, other))
        return {key: math.sqrt(variance(np.subtract(ours[key], theirs[key]))) for key in ours}

    found = errors(scores(0), scores(1))

    def differences(rows):
        def loss(rows):
            return ((losses[0] - losses[1])[rows] * labels[rows]).sum() / labels[rows].sum()

        return loss(rows), np.mean([loss(rows[source[rows] == name]) for name in "abc"])

    # A bootstrap, for macro within the sources.
    again = [differences(draw.integers(count, size=count))[0] for _ in range(4000)]
    assert found["loss"] == pytest.approx(np.std(again), rel=0.07)
    places = [np.flatnonzero(source == name) for name in "abc"]
    again = [
        differences(np.concatenate([draw.choice(mine, len(mine)) for mine in places]))[1]
        for _ in range(4000)
    ]
    assert found["macro"] == pytest.approx(np.std(again), rel=0.07)

    # One example has no spread.
    one = {"x0": ("a", 1.0, 2), "x1": ("a", 2.0, 2), "x2": ("b", 1.0, 2)}
    more = one | {"x1": ("a", 3.0, 2)}
    pair = [
        read_losses(store, [stages(store, given, f"few{n}")]) for n, given in enumerate((one, more))
    ]
    assert errors(*pair) == {"loss": pytest.approx(1 / 3, rel=1e-4)}


def test_the_measures_of_files_and_of_large_sources_have_influences(store):
    """By hand, all examples of one token: the influence on a mean is (loss − mean) / n."""

    def given(kind, counts):
        return {
            f"{kind}{source}{n}": (source, float(n % 2), 1)
            for source, count in counts.items()
            for n in range(count)
        }

    sets = [
        stages(store, given("h", {"a": 150, "b": 100, "c": 99}), "heldout"),
        stages(store, given("x", {"exam": 4}), "exam"),
        stages(store, given("y", {"quiz": 2}), "quiz"),
    ]
    losses, names = read_losses(store, sets), ["heldout", "exam", "quiz"]
    assert by_file(losses, names) == {"exam": 0.5, "quiz": 0.5}
    found = influences(losses, names)
    assert set(found) == {"loss", "macro", "macro_100", "files", "files/exam", "files/quiz"}
    assert {len(each) for each in found.values()} == {GROUPS}

    def squares(key):
        # Summed over groups of one or two examples: of a set of four, most are alone.
        return float(np.square(found[key]).sum())

    assert sum(found["files/exam"]) == pytest.approx(0, abs=1e-4)
    assert squares("files/exam") == pytest.approx(4 * 0.125**2, rel=0.6)
    # Half of each file's influence.
    both = (np.array(found["files/exam"]) + found["files/quiz"]) / 2
    assert found["files"] == pytest.approx(list(both), abs=1e-5)
    # c has 99 examples. Means of sources that are even: ±0.5 of 150 and of 100, halved.
    wanted = 150 * (0.5 / 150 / 2) ** 2 + 100 * (0.5 / 100 / 2) ** 2
    assert squares("macro_100") == pytest.approx(wanted, rel=0.35)


def test_the_loss_of_answers_counts_the_examples_without_one(store):
    result = summarise_answers(store, [stages(store, GIVEN, "heldout")], "so:")
    influence = result.pop("influences")["answer_loss"]
    assert result == {
        "answer_loss": pytest.approx((2 + 3 + 8 + 5) / 16),
        "answer_macro": pytest.approx((5 / 4 + 4 + 0.5) / 3),
        "answer_label_tokens": 16,
        "answer_by_source": pytest.approx({"a": 5 / 4, "b": 4, "c": 0.5}),
        "answer_left_out": 1,
    }
    assert len(influence) == 4 and sum(influence) == pytest.approx(0, abs=1e-4)
    nothing = stages(store, {"r3": GIVEN["r3"]}, "nothing")
    with pytest.raises(
        ValueError, match=r"answer_marker: none of 1 held-out responses has tokens after 'so:'"
    ):
        summarise_answers(store, [nothing], "so:")


def test_nothing_left_to_score_is_refused(store):
    nothing = stages(store, {"r3": GIVEN["r3"]}, "heldout")
    with pytest.raises(
        ValueError, match="no held-out example has a response token left after truncation"
    ):
        summarise(read_losses(store, [nothing]))


def test_what_is_evaluated_on(local_ray, store, tmp_path):
    corpus = write_corpus(store, [example("p", "r")], num_parts=1)
    with pytest.raises(ValueError, match=r"set corpus\.heldout_share .* or evaluation\.files"):
        heldout_examples(store, corpus, EvaluationConfig(), CORPUS)
    store.commit("corpus/test/heldout", "f", [], {})  # a share so small that no row fell in it
    with pytest.raises(ValueError, match=r"corpus\.heldout_share"):
        heldout_examples(store, corpus, EvaluationConfig(), CORPUS)

    file = tmp_path / "exam.jsonl"
    lines = [{"instruction": f"q{n}", "output": "yes"} for n in range(4)]
    lines.append(lines[0])  # a question asked twice counts twice
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvaluationConfig(files={"exam": str(file)})
    found = heldout_examples(store, corpus, config, CORPUS)
    assert list(found) == ["exam"] and found["exam"].rows == 5
    assert sources_of(store, found["exam"]) == {"exam"}
    assert heldout_examples(store, corpus, config, CORPUS) == found
    file.write_text(file.read_text() + json.dumps({"instruction": "new", "output": "no"}) + "\n")
    assert heldout_examples(store, corpus, config, CORPUS)["exam"].rows == 6

    # Rows without a source are kept apart from a source of the corpus that has the file's name.
    own = write_corpus(store, [example("p", "r", "exam")], num_parts=1, folder="corpus/own")
    assert sources_of(store, heldout_examples(store, own, config, CORPUS)["exam"]) == {
        "exam (file)"
    }

    # The columns are the corpus's, whatever else the file has.
    named = CORPUS.model_copy(
        update={"columns": {"instruction": "findings", "output": "impression", "source": "s"}}
    )
    row = {"findings": "f", "impression": "i", "question": "q", "answer": "a"}
    file.write_text(json.dumps(row) + "\n")
    assert turns_of(store, heldout_examples(store, corpus, config, named)["exam"]) == [("f", "i")]

    missing = EvaluationConfig(files={"exam": str(tmp_path / "none.jsonl")})
    with pytest.raises(ValueError, match=r"evaluation\.files: exam: .*none\.jsonl"):
        heldout_examples(store, corpus, missing, CORPUS)


def test_of_a_dataset_of_several_splits_the_test_split_is_evaluated_on(local_ray, store, tmp_path):
    rows = {
        split: [{"instruction": f"{split} {n}", "output": "o", "question": f"{split} {n}",
                 "answer": "1"} for n in range(3)]
        for split in ("train", "test", "exam")
    }  # fmt: skip
    splits = {name: datasets.Dataset.from_list(mine) for name, mine in rows.items()}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "data"))
    examples = write_corpus(store, [example("p", "r")], num_parts=1)
    place = {"own": str(tmp_path / "data")}
    for split in ("test", "exam"):
        config = EvaluationConfig(files=place, split=split)
        turns = turns_of(store, heldout_examples(store, examples, config, CORPUS)["own"])
        assert turns == [(f"{split} {n}", "o") for n in range(3)]
        config = EvaluationConfig(answers=place, split=split)
        turns = turns_of(store, answer_sets(store, examples, config, CORPUS)["own"])
        assert turns == [(f"{split} {n}", "1") for n in range(3)]
    config = EvaluationConfig(files=place, split="dev")
    with pytest.raises(ValueError, match=r"own: .*no split 'dev' .*evaluation\.split.*exam, test"):
        heldout_examples(store, examples, config, CORPUS)
