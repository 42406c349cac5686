"""What a run says before it starts."""

import pytest
from support.runs import plan_of, settings

from s2l_ray.pipeline.agenda import agenda
from s2l_ray.pipeline.to_do import announce
from s2l_ray.store import Store

EXPORT = "exports/s2l-seed0/alpaca"
UP_TO_CLUSTERS = "corpus, tokens, proxy, losses, trajectories, clusters"


@pytest.fixture
def told(tmp_path, caplog):
    """What a command would log in a folder of its own, made in part."""

    def call(command, made=(), **changes):
        config = settings(tmp_path / "run", **changes)
        store, caplog.records[:] = Store(config.run_dir), []
        items = agenda(config, plan_of(config), command)
        for item in items:
            if made == "all" or item.name in made:
                folder = (*item.folders, f"{item.name}/0123")[0]
                if store.manifest(folder) is None:
                    store.commit(folder, folder.rpartition("/")[2], [], {})
        caplog.clear()
        with caplog.at_level("INFO"):
            announce(store, items)
        return [record.getMessage() for record in caplog.records]

    return call


def test_all_that_a_command_makes_is_named(told):
    assert told("select") == [f"to do: {UP_TO_CLUSTERS}, selections/s2l-seed0, {EXPORT}"]
    [line] = told("pipeline")
    first, _, rest = line.partition(" tokens, ")
    four = [f"{name}-seed{seed}" for name in ("s2l", "random") for seed in (0, 1)]
    assert first == "to do: corpus," and rest == ", ".join(
        ["evaluations/tokens/heldout", *UP_TO_CLUSTERS.split(", ")[2:]]
        + [f"selections/{four[0]}", EXPORT, *(f"selections/{name}" for name in four[1:])]
        + [f"targets/{name}" for name in four]
        + [f"evaluations/{name}/heldout" for name in four]
    )


def test_many_of_a_kind_are_counted(told):
    [line] = told("pipeline", evaluation__seeds=[*range(5)])
    assert line == (
        "to do: corpus, tokens, 11 evaluations, proxy, losses, trajectories, clusters, "
        "10 selections, exports/s2l-seed0/alpaca, 10 targets"
    )
    [line] = told("compare", compare__seeds=[0, 1], compare__selectors=["random"])
    assert "proxy (seed 0), losses (seed 0), trajectories (seed 0), proxy (seed 1), " in line
    assert line.endswith("up to 10 targets, up to 10 evaluations")


def test_what_exists_is_reused(told):
    reused, to_do = told("finetune", made=("corpus", "tokens"))
    assert reused == "reused: corpus, tokens"
    assert to_do.startswith("to do: proxy, ") and to_do.endswith("targets/s2l-seed0")
    # An evaluation of another target may be there.
    reused, to_do = told("evaluate", made=("evaluations/s2l-seed0/heldout",))
    assert "evaluations/s2l-seed0/heldout" in to_do
    reused, to_do = told("evaluate", made="all")
    assert reused.startswith("reused: corpus, tokens, ") and to_do == "to do: nothing"
