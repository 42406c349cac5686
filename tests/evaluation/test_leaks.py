"""Rows of evaluation files that the corpus has too."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
from support.corpora import example, write_corpus
from support.evaluation import CORPUS, lines_of, turns_of

from s2l_ray.config import CorpusConfig, EvaluationConfig, SelectionConfig, WorkersConfig
from s2l_ray.corpus.ingest import ingest_once
from s2l_ray.evaluation.exact_match import Answering, answer_sets
from s2l_ray.evaluation.heldout import heldout_examples
from s2l_ray.execution import connect
from s2l_ray.pipeline import evaluate


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
    found = heldout_examples(store, examples, config, CORPUS)
    assert turns_of(store, found["exam"]) == sorted(other)
    assert found["exam"].info["in_corpus"] == 3
    alone = CorpusConfig(path=clean, split="test", source="clean", duplicates="number")
    assert found["clean"] == ingest_once(store, alone, "evaluations/corpora/clean")

    # Said whenever a run begins, if it is found out only once.
    monkeypatch.setattr(evaluate, "_tokens_of_heldout", lambda *_: {})  # of a whole run's config
    monkeypatch.setattr(evaluate, "check_target", lambda _: None)
    settings = SimpleNamespace(
        evaluation=config,
        corpus=CORPUS,
        target="a target",
        selection=SelectionConfig(),
        races=False,
    )
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

    # A place for its actors is looked for at once, not after the targets are trained.
    settings.evaluation = config.model_copy(update={"workers": WorkersConfig(gpus_per_worker=2)})
    monkeypatch.setattr(connect, "_started", [ray.get_runtime_context().get_node_id()])
    with pytest.raises(ValueError, match=r"^evaluation\.workers: needs .* 2 GPUs each; found room"):
        evaluate.prepare_evaluation(run)

    # What is left goes by the corpus: another one is searched again.
    smaller = write_corpus(store, [example("q7", "a7"), example("q1", "a1")])
    again = heldout_examples(store, smaller, config, CORPUS)
    assert again["exam"].info["in_corpus"] == 1 and again["exam"].rows == 5
    assert again["exam"].fingerprint != found["exam"].fingerprint
    assert again["clean"] == found["clean"]

    lines_of(tmp_path / "exam.jsonl", [chat(*pair) for pair in shared])
    with pytest.raises(
        ValueError, match=r"exam: left out 3 of 3 examples.*pool\.jsonl:4; nothing is left"
    ):
        heldout_examples(store, examples, config, CORPUS)


def test_questions_that_the_corpus_asks_are_left_out_and_told(examples, store, tmp_path):
    rows = [{"question": f"q{n}", "answer": "1"} for n in range(38, 44)]
    exam = lines_of(tmp_path / "exam.jsonl", rows)
    config = EvaluationConfig(answers={"exam": exam})
    found = answer_sets(store, examples, config, CORPUS)["exam"]
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
    found = answer_sets(store, chats, config, CORPUS)["exam"]
    assert turns_of(store, found) == [(f"q{n}", "1") for n in (38, 39, 40, 42, 43)]
    # So does an input, where the instruction is the task.
    talk = [("user", "Solve."), ("input", "q42"), ("assistant", "yes")]
    talk = [{"role": role, "text": text} for role, text in talk]
    asks = write_corpus(store, [{"source": "a", "turns": talk}], 1, folder="corpus/asks")
    asks = replace(asks, fingerprint="asks")
    found = answer_sets(store, asks, config, CORPUS)["exam"]
    assert turns_of(store, found) == [(f"q{n}", "1") for n in (38, 39, 40, 41, 43)]
    lines_of(tmp_path / "exam.jsonl", rows[:2])
    with pytest.raises(
        ValueError, match=r"answers: exam: left out 2 of 2 questions.*nothing is left"
    ):
        answer_sets(store, examples, config, CORPUS)


def test_questions_that_are_shown_with_their_answer_are_left_out(examples, store, tmp_path):
    rows = [{"question": f"q{n}", "answer": "1"} for n in range(38, 44)]
    exam = lines_of(tmp_path / "exam.jsonl", rows)
    shots = lines_of(tmp_path / "shots.jsonl", [rows[3], {"question": "new", "answer": "2"}])
    config = EvaluationConfig(answers={"exam": exam}, few_shot=shots)
    found = answer_sets(store, examples, config, CORPUS)["exam"]
    assert turns_of(store, found) == [(f"q{n}", "1") for n in (40, 42, 43)]
    assert found.info["note"].startswith(
        "evaluation.answers: exam: left out 3 of 6 questions, because the corpus or "
        "evaluation.few_shot has them too; "
    )
    # Only of rows that are shown.
    lines_of(tmp_path / "shots.jsonl", [{"question": "new", "answer": "2"}, rows[3]])
    fewer = config.model_copy(update={"few_shot_examples": 1})
    found = answer_sets(store, examples, fewer, CORPUS)["exam"]
    assert turns_of(store, found) == [(f"q{n}", "1") for n in (40, 41, 42, 43)]


def test_an_example_leaks_whichever_turns_have_labels(local_ray, store, tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    ask, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    calling = {"role": "assistant", "tool_calls": [call]}
    pool = [[ask, calling, answer], [ask, answer]]
    held = [
        [ask, calling | {"weight": 0}, answer],  # the first of the pool
        [ask, answer | {"reasoning_content": "r"}],
        [ask, calling | {"tool_calls": [call | {"id": "c1"}]}, answer],
        [ask, answer],  # the second, but with tools
    ]
    tools = [{"name": "f"}]
    path = lines_of(tmp_path / "pool.jsonl", [{"messages": messages} for messages in pool])
    corpus = ingest_once(store, CorpusConfig(path=path, num_parts=1), "corpus")
    rows = [{"messages": m} for m in held[:3]] + [{"messages": held[3], "tools": tools}]
    config = EvaluationConfig(files={"exam": lines_of(tmp_path / "exam.jsonl", rows)})
    found = heldout_examples(store, corpus, config, CORPUS)["exam"]
    assert found.rows == 3
    assert found.info["note"].endswith(f"exam.jsonl:1, which is also {tmp_path / 'pool.jsonl'}:1")
