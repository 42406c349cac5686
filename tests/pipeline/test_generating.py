"""Targets generate programs and texts: all of it in one run, on Ray."""

import json
import os
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray
from support.runs import MARK, architecture, corpus, rows_of, settings

from s2l_ray import evaluation
from s2l_ray.analysis.measures import metrics_of, value_of
from s2l_ray.config import EvaluationConfig, TrajectoriesConfig, WorkersConfig, fingerprint
from s2l_ray.evaluation.asking import Asking
from s2l_ray.evaluation.generation import Answerer
from s2l_ray.evaluation.texts import TextMetrics
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline import targets
from s2l_ray.pipeline.evaluate import evaluate, prepare_evaluation
from s2l_ray.pipeline.generating import check_generation, identity_of


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_sandbox_is_checked_where_programs_run(local_ray, store, monkeypatch):
    def check():
        raise ValueError(f"{os.getpid()} {ray.get_runtime_context().get_assigned_resources()}")

    monkeypatch.setattr(evaluation, "check_sandbox", check)
    config = SimpleNamespace(
        evaluation=EvaluationConfig(
            answers={"exam": "exam.jsonl"},
            answer_with="program",
            workers=WorkersConfig(cpus_per_worker=2),
        ),
        trajectories=TrajectoriesConfig(),
        corpus=None,
    )
    with pytest.raises(ValueError) as raised:
        check_generation(SimpleNamespace(store=store, config=config))
    pid, _, resources = str(raised.value).partition(" ")
    assert int(pid) != os.getpid() and resources == "{'CPU': 2.0}"


def test_a_stage_is_identified_by_all_that_its_measures_come_from(tmp_path, monkeypatch):
    """The files of BERTScore's model, and the versions of the code: not of other stages."""
    (tmp_path / "config.json").write_text("{}")
    ways = [
        Asking(), Asking("chain"), Asking("program"), TextMetrics(), TextMetrics(str(tmp_path), 3)
    ]  # fmt: skip

    def found():
        return [fingerprint(*identity_of(how)) for how in ways]

    def changed(before):
        return [mine != theirs for mine, theirs in zip(before, found(), strict=True)]

    before = found()
    assert len(set(before)) == 5 and identity_of(Asking()) == (evaluation.RULE,)
    (tmp_path / "config.json").write_text('{"changed": true}')
    assert changed(before) == [False, False, False, False, True]
    before = found()
    monkeypatch.setattr(evaluation, "PROGRAMS", evaluation.PROGRAMS + 1)
    assert changed(before) == [False, False, True, False, False]
    monkeypatch.setattr(evaluation, "TEXTS", evaluation.TEXTS + 1)
    assert changed(before) == [False, False, True, True, True]


@pytest.mark.slow
def test_targets_write_programs_and_texts(copy, start, tmp_path):
    pairs = [(f"{MARK}{900 + n} say it again", f"{MARK}1 {MARK}{n % 3}") for n in range(6)]
    exam = [{"question": question, "answer": "4"} for question, _ in pairs]
    written = [{"instruction": question, "output": response} for question, response in pairs]
    shots = [{"question": "1", "answer": "print(1)"}, {"question": "2", "answer": "print(2)"}]
    config = settings(
        copy,
        evaluation__answers={"exam": lines(tmp_path / "exam.jsonl", exam)},
        evaluation__texts={"notes": lines(tmp_path / "notes.jsonl", written)},
        evaluation__few_shot=lines(tmp_path / "shots.jsonl", shots),
        evaluation__few_shot_examples=1,
        evaluation__answer_with="program_or_text",
        evaluation__max_new_tokens=6,
        # Room for two questions, the words after them, and an answer.
        target__model={
            "architecture": architecture("llama") | {"max_position_embeddings": 160},
            "tokenizer_vocab": 320,
        },
    )
    run = start(config)
    selection = pipeline.select(corpus(), run.config, run=run)
    prepare_evaluation(run)
    target = targets.finetune(run, selection.manifest, "one", seed=0)
    result = evaluate(run, {"one": target})["one"]

    # A target from scratch writes no program: each is asked again, in plain words.
    found = result["exact_match"]["exam"]
    assert found["questions"] == found["of"] == 6
    assert sum(count for name, count in found.items() if name.startswith("programs_")) == 6

    stage = run.done["evaluations/one/notes"]
    table = pa.concat_tables([run.store.read_part(stage.folder, part) for part in stage.parts])
    assert result["texts_written"] == {"notes": 6} and table.num_rows == 6
    texts = result["texts"]
    assert texts.keys() == {"notes/bleu", "notes/rouge_l"} and table["bert_score"].null_count == 6
    assert texts["notes/rouge_l"] == pytest.approx(sum(table["rouge_l"].to_pylist()) / 6)
    assert 0 <= texts["notes/bleu"] <= 100
    keys = [metric.key for metric in metrics_of([result]) if metric.key.startswith("texts/")]
    assert keys == ["texts/notes/bleu", "texts/notes/rouge_l"]
    assert value_of(result, "texts/notes/rouge_l") == texts["notes/rouge_l"]

    influences = result["influences"]
    assert {"exact_match/exam", "texts/notes/rouge_l"} <= influences.keys()
    assert "texts/notes/bleu" not in influences  # no mean over texts
    assert sum(influences["texts/notes/rouge_l"]) == pytest.approx(0, abs=1e-9)

    # What an actor does with programs that a better target writes.
    stage = run.done["evaluations/one/exam"]
    folder = next((copy / "evaluations/corpora/exam").iterdir()).relative_to(copy)
    questions = run.store.manifest(str(folder))
    tokenizer = run.done["evaluations/tokens/heldout"].info["tokenizer"]
    actor = Answerer(Asking("program"), run.store, config.trajectories, tokenizer, config.prompt, 6)
    part = questions.parts[0]
    wrote = ["print(2 + 2)", "print(5)", "import os", "4"]
    asked = []

    def texts_of(unit, examples):
        asked.extend(each.turns[0]["text"] for each in examples)
        return (wrote * len(examples))[: len(examples)], {}

    actor.texts = texts_of
    made, stats = actor({"questions": str(folder), "part": part, "rows": part.rows})
    assert all(text.endswith(" Let's write a program.") for text in asked)
    expected = ([True, False, False, False] * part.rows)[: part.rows]
    assert made["correct"].to_pylist() == expected and stats["correct"] == sum(expected)
    assert (
        made["example_id"].to_pylist()
        == [row["example_id"] for row in rows_of(run.store, questions)][: part.rows]
    )
