"""Comparisons of selectors over budgets, seeds and ways to match them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.runs import MARK, Given, corpus, ids_of, rows, rows_of, settings

import s2l_ray
from s2l_ray.pipeline import comparison, planned, records
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.arms import FULL_COMPUTE, FULL_EPOCHS
from s2l_ray.report import comparison_page
from s2l_ray.selection.choose import examples_for
from s2l_ray.store import Manifest, Part
from s2l_ray.store.views import SelectionView

ALONE = {"worth": [], "untuned": False}


@pytest.mark.slow
def test_arms_of_a_pair_of_seeds_are_matched_as_asked(copy, start):
    compare = {
        "selectors": ["longest", "random"],
        "also": ["facility_location"],
        "budgets": [30, "20%"],
        "match": ["examples", "tokens", "compute"],
        "seeds": [42],  # of the finished run: its proxy is found
        "full": ["compute", "epochs"],
        "worth": [0.5, 2, 50],
        "shares": {"random": ["longest"], "longest": ["random"]},
    }
    config = settings(copy, compare=compare)
    run = start(config)
    s2l_ray.select(corpus(), config, run=run)
    selectors = config.compare.selectors_with(0)
    view = run.view(comparison.seeded(config, 42, selectors))
    view.get(view.plan.trajectories)
    assert view.done["proxy"] == run.done["proxy"]
    assert view.done["corpus"] == run.done["corpus"]
    arms, short = planned.arms_of_seeds(view, selectors, 7)
    assert not short
    most = comparison.num_targets(config) + comparison.num_untuned(config)
    assert len({arm.name for arm in arms}) <= most < len(arms)
    candidates = view.done["trajectories"].rows
    for budget, count in (("30", 30), ("20%", round(0.2 * candidates))):
        of = {(a.match, a.method): a for a in arms if a.budget == budget}
        # Two amounts of random (50 times is more than there is), no training, and two controls.
        assert len(of) == 3 * (5 + 2 + 1) + 2
        base = of["examples", "random"]
        assert base == replace(of["tokens", "random"], match="examples")
        assert base.count == count and base.steps == -(-2 * count // 20)
        assert {a.training_seed for a in of.values()} == {7}
        longest = of["examples", "longest"]
        assert longest.count == count and longest.tokens > base.tokens
        assert longest.examples.info["examples"] == count
        # Equal tokens: one more example would be too many.
        tokens = of["tokens", "longest"]
        assert tokens.count < count
        assert base.tokens - 48 < tokens.tokens <= base.tokens
        # Equal compute: as many tokens trained on, to half a step.
        seen = base.steps * base.tokens / base.count
        for arm in (of["compute", "longest"], of["examples", FULL_COMPUTE]):
            step = arm.tokens / arm.count
            assert abs(arm.steps * step - seen) <= step / 2
        assert of["compute", "longest"].examples == longest.examples
        full = of["examples", FULL_EPOCHS]
        assert full.count == candidates and full.steps == -(-2 * candidates // 20)
        half, twice = of["examples", "random ×0.5"], of["tokens", "random ×2"]
        assert (half.count, twice.count) == (round(count / 2), 2 * count)
        assert set(ids_of(view.store, half.examples)) < set(ids_of(view.store, base.examples))
        assert set(ids_of(view.store, base.examples)) < set(ids_of(view.store, twice.examples))
        assert twice.shared == pytest.approx(0.5) and half.shared == 1
        untuned = of["compute", "untuned"]
        assert (untuned.count, untuned.steps, untuned.name) == (0, 0, "untuned-train7")
        control = of["examples", "random_shares of longest"]
        assert control.like == "longest" and control.name.startswith("random_shares-of-longest-")
        turned = of["examples", "longest in shares of random"]
        assert turned.name.startswith("longest-in-shares-of-random-") and turned.like == "random"
        assert SelectionView(turned.examples).by_source == SelectionView(base.examples).by_source
        # The longest of each source.
        lengths = {}
        for row in rows_of(view.store, view.done["tokens"]):
            lengths[row["example_id"]] = row["num_label_tokens"]
        sources = {row["example_id"]: row["source"] for row in rows_of(view.store, full.examples)}
        mine = set(ids_of(view.store, turned.examples))

        def longest_of(ids, source, lengths=lengths, sources=sources):
            return sorted((lengths[each] for each in ids if sources[each] == source), reverse=True)

        for source, n in SelectionView(base.examples).by_source.items():
            assert longest_of(mine, source) == longest_of(sources, source)[:n]
        by_source = SelectionView(control.examples).by_source
        assert by_source == SelectionView(longest.examples).by_source
        assert by_source != SelectionView(base.examples).by_source


def test_the_full_arm_has_the_tokens_of_what_can_be_trained_on(monkeypatch):
    """By hand: 4 of 10 examples have no label token, and 900 of 1,200 tokens."""
    compare = {"selectors": ["random"], "budgets": [3], "full": ["compute"]} | ALONE
    config = settings("run", compare=compare, target__epochs=40)
    stats = {"trainable": 6, "trainable_tokens": 300}
    tokens = Manifest("tokens/t", "t", [Part("part-00000", "f", 10, 1, "c", stats)])
    base = Manifest("selections/r", "r", [], {"examples": 3, "tokens": 90})
    monkeypatch.setattr(planned, "choose_subset", lambda *_: pipeline.Selection(None, base))
    view = Given.of(config, {"tokens": tokens, "corpus": base})
    (_, full), _ = planned.arms_of_seeds(view, ["random"], 0)
    assert (full.method, full.count, full.tokens) == (FULL_COMPUTE, 6, 300)
    # 40 epochs of 3 in batches of 20: 6 steps of 20 x 30 tokens; an example of the corpus has 50.
    assert full.steps == round(6 * 30 / 50)


def test_a_selector_with_too_few_examples_is_left_out_and_told(monkeypatch, said):
    compare = {"selectors": ["prune_then_cluster", "random"], "budgets": ["50%"], "full": []}
    compare |= ALONE
    stats = {"trainable": 6, "trainable_tokens": 60}
    tokens = Manifest("tokens/t", "t", [Part("part-00000", "f", 6, 1, "c", stats)])
    base = Manifest("selections/r", "r", [], {"examples": 3, "tokens": 30})

    def choose(_, choice):
        if choice.selector == "random":
            return pipeline.Selection(None, base)
        examples_for(choice.budget, 2, None, tokens)  # two have a loss that falls
        raise AssertionError

    monkeypatch.setattr(planned, "choose_subset", choose)
    config = settings("run", compare=compare)
    view = Given.of(config, {"tokens": tokens, "corpus": base})
    [arm], short = planned.arms_of_seeds(view, config.compare.selectors, 7)
    assert (arm.method, arm.count) == ("random", 3)
    told = "selection.budget: 3 examples, but only 2 can be chosen"
    assert short == [
        {"method": "prune_then_cluster", "budget": "50%", "match": "examples",
         "selection_seed": config.seed, "training_seed": 7, "too_few": told}
    ]  # fmt: skip
    assert f"prune_then_cluster is left out: {told}" in said()


@pytest.mark.slow
def test_compare_trains_each_arm_once_and_goes_on(finished, copy, start, said):
    compare = {
        "selectors": ["s2l", "random"], "budgets": [40], "match": ["examples", "tokens"],
        "seeds": [42, 1], "also": ["loss_strata"], "also_seeds": 1, "full": ["compute"],
        "worth": [0.5], "shares": {"random": ["s2l"]}, "equivalent": "5%",
    }  # fmt: skip
    exam = copy / "exam.jsonl"
    exam.write_text("".join(json.dumps(row) + "\n" for row in rows(30, seed=6)))
    evaluation = {"files": {"exam": str(exam)}, "targets_at_once": 2}
    config = settings(copy, compare=compare, evaluation=evaluation)
    run = start(config)
    lengths = []
    found = comparison.compare(run, lambda so_far: lengths.append(len(so_far)), corpus())
    # Equal examples: two selectors, also, the control, full, half of random, untuned; equal tokens:
    # these without the control. The second seed is without also.
    assert lengths == [7 + 6, 7 + 6 + 6 + 5]
    # What the selectors choose is told once, before the first target.
    told = said()
    assert told.count("what the selectors choose at budget 40, over all draws") == 1
    assert "random and loss_strata differ in" in told

    def known(config):
        marked = records.settings_of_comparison(config)
        return records.known(run.store, records.COMPARISON, marked)

    assert known(config) == found
    other = settings(copy, compare=compare, clusters__n_clusters=4)
    assert known(other) == []  # of other settings it says nothing
    by = {(r["method"], r["match"], r["selection_seed"]): r for r in found}
    assert len(by) == 24
    assert {seed for method, _, seed in by if method == "loss_strata"} == {42}
    for seed in (42, 1):
        random = by["random", "examples", seed]
        assert random["loss"] == by["random", "tokens", seed]["loss"]
        assert random["examples"] == by["s2l", "examples", seed]["examples"] == 40
        assert by["s2l", "tokens", seed]["tokens"] <= random["tokens"]
        full = by[FULL_COMPUTE, "examples", seed]
        assert full["examples"] > 150
        assert full["trained_tokens"] == pytest.approx(random["trained_tokens"], rel=0.3)
        half, untuned = by["random ×0.5", "examples", seed], by["untuned", "tokens", seed]
        assert half["examples"] == 20 and half["steps"] == 2 and half["loss"] > random["loss"]
        assert (untuned["steps"], untuned["trained_tokens"]) == (0, 0)
        # A model from scratch guesses among 320 tokens before it is trained.
        assert untuned["loss"] == pytest.approx(np.log(320), rel=0.05)
        assert untuned["loss"] > half["loss"]
        control = by["random_shares of s2l", "examples", seed]
        assert control["like"] == "s2l" and control["examples"] == 40
        # The examples' influences on the primary measure, the file's loss: 30 groups of one.
        assert sum(value != 0 for value in random["influences"]["files/exam"]) == 30
    assert by["s2l", "examples", 42]["loss"] != by["s2l", "examples", 1]["loss"]
    assert by["untuned", "examples", 42]["target"] != by["untuned", "examples", 1]["target"]
    mine = [r for r in found if (r["method"], r["match"]) == ("s2l", "examples")]
    page = Path(comparison_page.write(run, found)).read_text()
    assert f"{np.mean([r['by_file']['exam'] for r in mine]):.2f}<span" in page
    assert MARK not in page
    told = json.loads((copy / "report" / "verdicts.json").read_text())
    assert told["primary"]["key"] == "files/exam"
    for group in told["groups"]:
        of = {row["method"]: row for row in group["rows"]}
        assert of["s2l"]["verdict"] == "no verdict" and of["untuned"]["verdict"] == "reference"
        assert of["s2l"]["of_examples"] is not None and of["s2l"]["equal_margin"] > 0
        assert of["s2l"]["worth"]["least"] == 0.5
        assert not group["headroom"]["measured"]  # two seeds; it takes three
        assert "loss" in [each["key"] for each in group["exploratory"]]
    controls = told["groups"][0]["controls"]
    assert any(each.startswith("s2l − random_shares of s2l") for each in controls)
    # run.json describes the run's own stages only.
    assert json.loads((copy / "run.json").read_text())["config"]["seed"] == 42

    run.lease.release()
    again = start(config)
    assert comparison.compare(again, lambda so_far: None, corpus()) == found
    assert all(entry["reused"] for entry in again.times)
