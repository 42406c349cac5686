"""What each command is going to make, by hand from the settings of the tiny run."""

import pytest
from support.runs import plan_of, settings

from s2l_ray.pipeline.agenda import agenda

SELECTED = ["corpus", "tokens", "proxy", "losses", "trajectories", "clusters",
            "selections/s2l-seed0"]  # fmt: skip
EXPORT = ["exports/s2l-seed0/alpaca"]
HELDOUT = ["evaluations/tokens/heldout"]


def names(command, **changes):
    config = settings("run", **changes)
    return [each.name for each in agenda(config, plan_of(config), command)]


@pytest.mark.parametrize("command, expected", [
    ("inspect", SELECTED[:2]),
    ("import-losses", SELECTED[:5]),
    ("select", [*SELECTED, *EXPORT]),
    ("finetune", [*SELECTED, *EXPORT, "targets/s2l-seed0"]),
    ("evaluate", [*SELECTED[:2], *HELDOUT, *SELECTED[2:], *EXPORT, "targets/s2l-seed0",
                  "evaluations/s2l-seed0/heldout"]),
    ("pipeline", [*SELECTED[:2], *HELDOUT, *SELECTED[2:], *EXPORT, "selections/s2l-seed1",
                  "selections/random-seed0", "selections/random-seed1",
                  "targets/s2l-seed0", "targets/s2l-seed1",
                  "targets/random-seed0", "targets/random-seed1",
                  "evaluations/s2l-seed0/heldout", "evaluations/s2l-seed1/heldout",
                  "evaluations/random-seed0/heldout", "evaluations/random-seed1/heldout"]),
    ("diagnose", [*SELECTED[:3], "details/final", *SELECTED[3:], "rankings/loss_strata",
                  "selections/loss_strata-seed0"]
     + [f"{name} (proxy seed {seed})" for seed in (43, 44) for name in (
         *SELECTED[2:6], "selections/s2l-seed1", "rankings/loss_strata",
         "selections/loss_strata-seed1")]),
])  # fmt: skip
def test_what_a_command_makes(command, expected):
    found = names(command)
    assert sorted(found) == sorted(expected)
    assert found.index("tokens") == 1 and len({*found}) == len(found)


def test_what_a_comparison_makes():
    config = settings("run", compare__seeds=[0, 1], compare__selectors=["random", "s2l"],
                      compare__budgets=[20, 40], compare__full=[],
                      evaluation__files={"exam": "exam.jsonl"},
                      evaluation__answer_marker="Answer:")  # fmt: skip
    found = agenda(config, plan_of(config), "compare")
    by_name = {each.name: each for each in found}
    assert [*by_name][:4] == ["corpus", "tokens", *HELDOUT, "evaluations/tokens/exam"]
    for seed in (0, 1):
        assert by_name[f"proxy (seed {seed})"].folders != by_name["tokens"].folders
    assert by_name["proxy (seed 0)"].folders != by_name["proxy (seed 1)"].folders
    # Budgets, seeds; s2l, random of three amounts; and a target from scratch as it is, per seed.
    assert by_name["targets"].count == 2 * 2 * (1 + 3) + 2
    assert by_name["evaluations"].count == 18 * 4  # two sets, as a whole and after the marker


def test_targets_are_known_unless_the_budget_is_in_tokens():
    for budget, known in ((40, True), (0.11, True), ("2000 tokens", False)):
        config = settings("run", selection__budget=budget)
        found = {each.name: each for each in agenda(config, plan_of(config), "pipeline")}
        assert len(found["targets/s2l-seed0"].folders) == 2
        assert len(found["selections/s2l-seed0"].folders) == 1
        for name in ("selections/random-seed1", "targets/random-seed1"):
            assert bool(found[name].folders) == known
