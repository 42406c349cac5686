"""Held-out loss by hand; what is evaluated on."""

import json
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pytest
import ray
from support.corpora import example, write_corpus

from s2l_ray.config import CorpusConfig, EvaluationConfig
from s2l_ray.corpus.ingest import ingest_once
from s2l_ray.evaluation import (
    Answering,
    answer_sets,
    errors_over_examples,
    heldout_examples,
    judge,
    read_losses,
    summarise,
    summarise_answers,
)
from s2l_ray.pipeline import evaluate
from s2l_ray.store.schemas import LOSSES

# response -> (source, mean loss, label tokens); None: no label token left, so no loss
GIVEN = {
    "r0": ("a", 2.0, 1),
    "r1": ("a", 1.0, 3),
    "r2": ("b", 4.0, 2),
    "r3": ("b", None, 0),
    "r4": ("c", 0.5, 10),
}

POOL = CorpusConfig(path="pool.jsonl")  # what the corpus was read with


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


def test_errors_over_examples_are_those_of_examples_drawn_anew(store):
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

    found = errors_over_examples(scores(0), scores(1))

    def differences(rows):
        def loss(rows):
            return ((losses[0] - losses[1])[rows] * labels[rows]).sum() / labels[rows].sum()

        return loss(rows), np.mean([loss(rows[source[rows] == name]) for name in "abc"])

    # A bootstrap, for macro within the sources.
    anew = [differences(draw.integers(count, size=count))[0] for _ in range(4000)]
    assert found["loss"] == pytest.approx(np.std(anew), rel=0.07)
    places = [np.flatnonzero(source == name) for name in "abc"]
    anew = [
        differences(np.concatenate([draw.choice(mine, len(mine)) for mine in places]))[1]
        for _ in range(4000)
    ]
    assert found["macro"] == pytest.approx(np.std(anew), rel=0.07)

    # One example has no spread.
    one = {"x0": ("a", 1.0, 2), "x1": ("a", 2.0, 2), "x2": ("b", 1.0, 2)}
    more = one | {"x1": ("a", 3.0, 2)}
    pair = [
        read_losses(store, [stages(store, given, f"few{n}")]) for n, given in enumerate((one, more))
    ]
    assert errors_over_examples(*pair) == {"loss": pytest.approx(1 / 3), "macro": None}


def test_the_loss_of_answers_counts_the_examples_without_one(store):
    result = summarise_answers(store, [stages(store, GIVEN, "heldout")], "so:")
    assert result == {
        "answer_loss": pytest.approx((2 + 3 + 8 + 5) / 16),
        "answer_macro": pytest.approx((5 / 4 + 4 + 0.5) / 3),
        "answer_label_tokens": 16,
        "answer_by_source": pytest.approx({"a": 5 / 4, "b": 4, "c": 0.5}),
        "answer_left_out": 1,
    }
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
        heldout_examples(store, corpus, EvaluationConfig(), POOL)
    store.commit("corpus/test/heldout", "f", [], {})  # a share so small that no row fell in it
    with pytest.raises(ValueError, match=r"corpus\.heldout_share"):
        heldout_examples(store, corpus, EvaluationConfig(), POOL)

    file = tmp_path / "exam.jsonl"
    lines = [{"instruction": f"q{n}", "output": "yes"} for n in range(4)]
    lines.append(lines[0])  # a question asked twice counts twice
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvaluationConfig(files={"exam": str(file)})
    found = heldout_examples(store, corpus, config, POOL)
    assert list(found) == ["exam"] and found["exam"].rows == 5
    assert sources_of(store, found["exam"]) == {"exam"}
    assert heldout_examples(store, corpus, config, POOL) == found
    file.write_text(file.read_text() + json.dumps({"instruction": "new", "output": "no"}) + "\n")
    assert heldout_examples(store, corpus, config, POOL)["exam"].rows == 6

    # Rows without a source are kept apart from a source of the corpus that has the file's name.
    own = write_corpus(store, [example("p", "r", "exam")], num_parts=1, folder="corpus/own")
    assert sources_of(store, heldout_examples(store, own, config, POOL)["exam"]) == {"exam (file)"}

    # The columns are the corpus's, whatever else the file has.
    named = POOL.model_copy(
        update={"columns": {"instruction": "findings", "output": "impression", "source": "s"}}
    )
    row = {"findings": "f", "impression": "i", "question": "q", "answer": "a"}
    file.write_text(json.dumps(row) + "\n")
    assert turns_of(store, heldout_examples(store, corpus, config, named)["exam"]) == [("f", "i")]

    missing = EvaluationConfig(files={"exam": str(tmp_path / "none.jsonl")})
    with pytest.raises(ValueError, match=r"evaluation\.files: exam: .*none\.jsonl"):
        heldout_examples(store, corpus, missing, POOL)


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
        turns = turns_of(store, heldout_examples(store, examples, config, POOL)["own"])
        assert turns == [(f"{split} {n}", "o") for n in range(3)]
        config = EvaluationConfig(answers=place, split=split)
        turns = turns_of(store, answer_sets(store, examples, config)["own"])
        assert turns == [(f"{split} {n}", "1") for n in range(3)]
    config = EvaluationConfig(files=place, split="dev")
    with pytest.raises(ValueError, match=r"own: .*no split 'dev' .*evaluation\.split.*exam, test"):
        heldout_examples(store, examples, config, POOL)


def test_judging_on_ray_has_its_time_limit(local_ray):
    """Without one, the first would not end."""
    found, wanted = ["9^{9^{9^9}}", "1/2", "B", None, "4"], ["5", "0.5", "(B)", "3", "5"]
    assert ray.get(judge.remote(found, wanted)) == [False, True, True, False, False]


def test_sets_of_questions(local_ray, store, tmp_path):
    lines = [
        {"question": f"q{n}", "answer": str(n), "solution": "s", "topic": 1} for n in range(50)
    ]
    lines.append(lines[0])
    file = tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvaluationConfig(answers={"exam": str(file)})
    examples = write_corpus(store, [example("p", "r")], num_parts=1)
    sets = answer_sets(store, examples, config)
    assert answer_sets(store, examples, config) == sets and list(sets) == ["exam"]
    questions = sets["exam"]
    rows = [
        row
        for part in questions.parts
        for row in store.read_part(questions.folder, part).to_pylist()
    ]
    texts = [[(turn["role"], turn["text"]) for turn in row["turns"]] for row in rows]
    assert sorted(texts) == sorted(
        [("user", line["question"]), ("assistant", line["answer"])] for line in lines
    )
    # A cap: so many, the first by id.
    units = Answering(questions, "m", "f", "f", at_most=20).stage().units
    taken = [
        row["example_id"]
        for part, unit in zip(questions.parts, units, strict=False)
        for row in store.read_part(questions.folder, part).to_pylist()[: unit["rows"]]
    ]
    assert taken == sorted(row["example_id"] for row in rows)[:20]
    assert sum(unit["rows"] for unit in Answering(questions, "m", "f", "f").stage().units) == 51

    file.write_text(file.read_text() + json.dumps({"question": "q", "answer": 3}) + "\n")
    with pytest.raises(ValueError, match=r"answers: exam: .*'answer'.*exam\.jsonl:52"):
        answer_sets(store, examples, config)
    file.write_text(json.dumps({"question": "q", "solution": "3"}) + "\n")
    with pytest.raises(ValueError, match=r"answers: exam: .*no column 'answer'"):
        answer_sets(store, examples, config)


def lines_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sources_of(store, manifest):
    tables = [store.read_part(manifest.folder, part, ["source"]) for part in manifest.parts]
    return set(pa.concat_tables(tables)["source"].to_pylist())


def turns_of(store, manifest):
    tables = [store.read_part(manifest.folder, part, ["turns"]) for part in manifest.parts]
    rows = pa.concat_tables(tables)["turns"].to_pylist()
    return sorted(tuple(turn["text"] for turn in turns) for turns in rows)


@pytest.fixture
def examples(local_ray, store, tmp_path):
    """A corpus of q0 to q39, answered by a0 to a39."""
    rows = [{"instruction": f"q{n}", "output": f"a{n}", "source": f"s{n % 3}"} for n in range(40)]
    path = lines_of(tmp_path / "pool.jsonl", rows)
    return ingest_once(store, CorpusConfig(path=path, num_parts=4), "corpus")


def chat(prompt, response):
    """A row of another shape than the corpus has."""
    turns = [("user", prompt), ("assistant", response)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def test_rows_of_a_file_that_the_corpus_has_are_left_out_and_told(
    examples, store, tmp_path, said, monkeypatch
):
    other = [("q5", "another"), ("q99", "a99"), ("q3", "a3 ")]
    shared = [("q3", "a3"), ("q7", "a7"), ("q3", "a3")]
    mixed = [other[0], *shared, *other[1:]]
    exam = lines_of(tmp_path / "exam.jsonl", [chat(*pair) for pair in mixed])
    clean = lines_of(tmp_path / "clean.jsonl", [chat(*pair) for pair in other])
    config = EvaluationConfig(files={"exam": exam, "clean": clean})
    found = heldout_examples(store, examples, config, POOL)
    assert turns_of(store, found["exam"]) == sorted(other)
    assert found["exam"].info["in_corpus"] == 3
    alone = CorpusConfig(path=clean, split="test", source="clean", duplicates="number")
    assert found["clean"] == ingest_once(store, alone, "evaluations/corpora/clean")

    # Said whenever a run begins, if it is found out only once.
    monkeypatch.setattr(evaluate, "_tokens_of_heldout", lambda *_: {})  # of a whole run's config
    settings = SimpleNamespace(evaluation=config, corpus=POOL)
    plan = SimpleNamespace(corpus="corpus")
    given = {"corpus": examples}
    run = SimpleNamespace(store=store, plan=plan, get=given.get, config=settings)
    for _ in range(2):
        said()
        evaluate.prepare_evaluation(run)
        text = said()
        assert "search the corpus" not in text
        assert (
            f"evaluation.files: exam: left out 3 of 6 examples, because the corpus has them too; "
            f"the first is {exam}:2, which is also {tmp_path / 'pool.jsonl'}:4\n"
        ) in text
        assert "clean" not in text

    settings.evaluation = config.model_copy(update={"answer_marker": "a"})
    evaluate.prepare_evaluation(run)
    settings.evaluation = config.model_copy(update={"answer_marker": "A"})
    with pytest.raises(
        ValueError, match=r"answer_marker: none of \d+ held-out responses contains 'A'"
    ):
        evaluate.prepare_evaluation(run)

    # What is left goes by the corpus: another one is searched anew.
    smaller = write_corpus(store, [example("q7", "a7"), example("q1", "a1")])
    again = heldout_examples(store, smaller, config, POOL)
    assert again["exam"].info["in_corpus"] == 1 and again["exam"].rows == 5
    assert again["exam"].fingerprint != found["exam"].fingerprint
    assert again["clean"] == found["clean"]

    lines_of(tmp_path / "exam.jsonl", [chat(*pair) for pair in shared])
    with pytest.raises(
        ValueError, match=r"exam: left out 3 of 3 examples.*pool\.jsonl:4; nothing is left"
    ):
        heldout_examples(store, examples, config, POOL)


def test_questions_that_the_corpus_asks_are_left_out_and_told(examples, store, tmp_path):
    rows = [{"question": f"q{n}", "answer": "1"} for n in range(38, 44)]
    exam = lines_of(tmp_path / "exam.jsonl", rows)
    config = EvaluationConfig(answers={"exam": exam})
    found = answer_sets(store, examples, config)["exam"]
    assert turns_of(store, found) == [(f"q{n}", "1") for n in range(40, 44)]
    assert found.info["note"] == (
        f"evaluation.answers: exam: left out 2 of 6 questions, because the corpus has them too; "
        f"the first is {exam}:1, which is also {tmp_path / 'pool.jsonl'}:39"
    )
    assert Answering(found, "m", "f", "f").stage().info == {"of": 4}
    # In a chat any turn of the user counts, none of the assistant.
    turns = [("system", "s"), ("user", "hi"), ("assistant", "q40"), ("user", "q41")]
    talk = [{"role": role, "text": text} for role, text in [*turns, ("assistant", "yes")]]
    chats = write_corpus(store, [{"source": "a", "turns": talk}], num_parts=1)
    found = answer_sets(store, chats, config)["exam"]
    assert turns_of(store, found) == [(f"q{n}", "1") for n in (38, 39, 40, 42, 43)]
    # So does an input, where the instruction is the task.
    talk = [("user", "Solve."), ("input", "q42"), ("assistant", "yes")]
    talk = [{"role": role, "text": text} for role, text in talk]
    asks = write_corpus(store, [{"source": "a", "turns": talk}], 1, folder="corpus/asks")
    asks = replace(asks, fingerprint="asks")
    found = answer_sets(store, asks, config)["exam"]
    assert turns_of(store, found) == [(f"q{n}", "1") for n in (38, 39, 40, 41, 43)]
    lines_of(tmp_path / "exam.jsonl", rows[:2])
    with pytest.raises(
        ValueError, match=r"answers: exam: left out 2 of 2 questions.*nothing is left"
    ):
        answer_sets(store, examples, config)
