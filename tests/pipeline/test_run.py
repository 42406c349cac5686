"""A run's record of its stages, its owner, and files that are damaged."""

import json
import shutil

import pytest
from support.runs import contents_of, corpus, ids_of, settings

from s2l_ray import evaluation
from s2l_ray.errors import LeaseLost
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.record import RunRecord
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.store import Store
from s2l_ray.store.lease import Lease
from s2l_ray.store.owner import lease_name


def stage_of(name, make=None):
    return Stage(name, alone(make))


@pytest.mark.slow
@pytest.mark.parametrize("gone", [False, True])
def test_held_out_examples_that_are_damaged_are_made_again(finished, copy, start, gone):
    run = start(settings(copy))
    pipeline.prepare(run, corpus())
    folder = copy / run.done["corpus"].folder / "heldout"
    before = contents_of(folder, "part-", "manifest.json")
    if gone:
        shutil.rmtree(folder)
    else:
        part = next(folder.glob("part-*"))
        part.write_bytes(part.read_bytes()[:-7])

    def held_out(run):
        pipeline.prepare(run, corpus())
        config = run.config
        found = evaluation.heldout_examples(
            run.store, run.done["corpus"], config.evaluation, config.corpus
        )
        return ids_of(run.store, found["heldout"])

    assert len(run.finish(held_out)) == run.done["corpus"].info["heldout"]
    assert contents_of(folder, "part-", "manifest.json") == before


def test_a_training_that_goes_on_is_told_as_resumed(store):
    folder = stage_of("proxy").folder
    store.write_json({}, f"{folder}/resume/step-000005-lease-000001", "state.json")
    run = pipeline.Run(settings("run"), store, None, recorded=False)
    for name, resumed in (("proxy", True), ("tokens", False)):
        run.get(stage_of(name, lambda run, **where: store.commit(*where.values(), [], {})))
        assert (run.times[-1]["stage"], run.times[-1]["resumed"]) == (name, resumed)


def test_a_run_that_was_followed_tells_nothing_more(store):
    store.epoch = 1
    owner = Lease(Store(store.uri), seconds=60, job="j").record | {"host": "h"}
    store.objects.write(f"lease/{lease_name(2)}", json.dumps(owner).encode())
    run = pipeline.Run(settings("run"), store, None, record=RunRecord(store, "select"))
    store.epoch = None
    tokens = stage_of("tokens", lambda *_, **__: pytest.fail("made"))
    store.commit(tokens.folder, tokens.fingerprint, [], {})
    store.epoch = 1
    with pytest.raises(LeaseLost, match=r"taken over by another run \(host h, job j"):
        run.get(tokens)
    assert not store.exists("run.json")
