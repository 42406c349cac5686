"""Sets of questions, and judging on Ray."""

import json

import pytest
import ray
from support.corpora import example, write_corpus
from support.evaluation import CORPUS

from s2l_ray.config import EvaluationConfig
from s2l_ray.evaluation.exact_match import Answering, answer_sets, told_room
from s2l_ray.evaluation.judging import judge
from s2l_ray.store import Manifest, Part


def test_judging_on_ray_has_its_time_limit(local_ray):
    """Without one, the first would not end."""
    found, wanted = ["9^{9^{9^9}}", "1/2", "B", None, "4"], ["5", "0.5", "(B)", "3", "5"]
    assert ray.get(judge.remote(found, wanted)) == [False, True, True, False, False]


def test_too_few_positions_are_told():
    def told(*stats):
        parts = [Part(f"{n}", f"{n}", 10, 1, "c", each) for n, each in enumerate(stats)]
        return told_room(Manifest("f", "f", parts), "exam, of one")

    assert told({}, {}) is None  # as of an earlier version
    assert told({}, {"cut": 4, "without_room": 1}).startswith(
        "evaluation: exam, of one: 4 of 20 prompts leave fewer tokens than evaluation.max_new"
    )
    assert told({"cut": 10, "without_room": 10}, {}).endswith("10 of them leave none, so their "
        "answer is empty")  # fmt: skip
    with pytest.raises(ValueError, match="exam, of one: each of 10 prompts takes all positions"):
        told({"cut": 10, "without_room": 10})


def test_sets_of_questions(local_ray, store, tmp_path):
    lines = [
        {"question": f"q{n}", "answer": str(n), "solution": "s", "topic": 1} for n in range(50)
    ]
    lines.append(lines[0])
    file = tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvaluationConfig(answers={"exam": str(file)})
    examples = write_corpus(store, [example("p", "r")], num_parts=1)
    sets = answer_sets(store, examples, config, CORPUS)
    assert answer_sets(store, examples, config, CORPUS) == sets and list(sets) == ["exam"]
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
        answer_sets(store, examples, config, CORPUS)
    file.write_text(json.dumps({"question": "q", "solution": "3"}) + "\n")
    with pytest.raises(ValueError, match=r"answers: exam: .*no column 'answer'"):
        answer_sets(store, examples, config, CORPUS)
