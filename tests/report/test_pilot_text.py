"""A pilot's choice is kept, and its answer told."""

import json

import pytest
from support.runs import settings

from s2l_ray.analysis.decision import Decision
from s2l_ray.pipeline.pilot import Limit, Pilot
from s2l_ray.pipeline.pricing import Price
from s2l_ray.pipeline.timing import Stored
from s2l_ray.report import pilot_text
from s2l_ray.store import Store


def pilot(folder):
    price = Price("compare", "to do", seconds=90.0, gpu_hours=0.25, stored=Stored(1.0, 2.0, 3.0))
    return Pilot(settings(folder, corpus__path="corpus.jsonl"), price, ["6 seeds", "all of it"])


def test_the_choice_of_the_same_question_is_kept(tmp_path):
    store, made = Store(str(tmp_path / "run")), pilot(tmp_path / "run")
    assert pilot_text._chosen_before(store, "asked") is None
    pilot_text._keep(store, made, "asked")
    assert pilot_text._chosen_before(store, "asked") == made
    assert pilot_text._chosen_before(store, "another") is None


def test_the_choice_is_told_before_it_is_paid_for(tmp_path):
    lines = pilot_text._choice(pilot(tmp_path), Limit(gpu_hours=2))
    assert lines[0] == (
        "pilot: the comparison that tells most within 2 GPU-hours takes about 1 min 30 s, "
        "0.25 GPU-hours:"
    )
    assert "  6 seeds" in lines and str(tmp_path) in lines[-1]


@pytest.mark.parametrize("would, last", [("", "  Because."), ("more", "decide it: more.")])
def test_the_answer_ends_the_text(would, last):
    lines = pilot_text.told(Decision("undecided", "Because", would))
    assert lines[0] == "pilot: undecided" and lines[-1].endswith(last)


def test_records_become_an_answer():
    records = [
        {
            "method": method, "budget": "0.1", "match": "examples", "selection_seed": seed,
            "training_seed": seed, "loss": 3 + shift + seed / 1000 * (1 + shift), "macro": 3.0,
            "by_source": {}, "examples_by_source": {}, "tokens_by_source": {},
        }
        for seed in range(6)
        for method, shift in (("random", 0.0), ("s2l", -0.05), ("full, equal compute", -0.2))
    ]  # fmt: skip
    records.append({"method": "random_balanced", "too_few": "no source", "selection_seed": 0})
    config = settings("run", corpus__path="corpus.jsonl")
    found = pilot_text._decision(json.loads(json.dumps(records)), config, pilot_text.headroom)
    assert found.answer == "select"
    few = [
        {"method": "s2l", "too_few": f"only {seed // 6} examples", "selection_seed": seed}
        for seed in range(6)
    ]
    others = [record for record in records if record["method"] != "s2l"]
    found = pilot_text._decision([*few, *others], config, pilot_text.headroom)
    assert (found.answer, found.would) == ("undecided", "a smaller selection.budget")
    assert found.why == "s2l was not trained; only 0 examples"


def test_of_the_candidates_of_a_race_the_best_is_decided_on():
    shifts = {"random": 0.0, "s2l": -0.02, "longest": -0.05, "full, equal compute": -0.2}
    records = [
        {
            "method": method, "budget": "0.1", "match": "examples", "selection_seed": seed,
            "training_seed": seed, "loss": 3 + shift + seed / 1000 * (1 + shift), "macro": 3.0,
            "by_source": {}, "examples_by_source": {}, "tokens_by_source": {},
        }
        for seed in range(6)
        for method, shift in shifts.items()
    ]  # fmt: skip
    config, mains = settings("run", corpus__path="corpus.jsonl"), ["s2l", "longest", "k_center"]
    found = pilot_text._decision(records, config, pilot_text.headroom, mains)
    assert found.answer == "select" and found.why.startswith("longest is better than random")
    worse = [each for each in records if each["method"] not in ("s2l", "longest")]
    found = pilot_text._decision(worse, config, pilot_text.headroom, mains)
    assert found.why == "s2l and longest and k_center was not trained"
