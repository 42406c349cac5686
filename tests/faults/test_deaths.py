"""Runs whose processes die at a random moment of each stage, and memory that runs out."""

from pathlib import Path

import pytest
from support import faults
from support.ceph import wait_for
from support.faults import ROUNDS, Command, Fault, survives

pytestmark = pytest.mark.faults  # each of these runs takes minutes
SELECT = faults.STAGES[:7]  # the stages of jobs/select.py


def test_the_driver_dies_in_every_stage_and_actors_in_theirs(undisturbed, folder, tmp_path, draw):
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    # In a row at one place, so that only the first may be without progress after it.
    config["proxy"]["max_failures"] = 2 * ROUNDS
    wanted = [Fault("driver", stage) for stage in SELECT]
    wanted += [Fault("training worker", "proxy") for _ in range(2)]
    wanted += [Fault("scoring actor", "losses") for _ in range(3)]
    # Before a chunk is done, maybe: fewer than it gives up after.
    wanted += [Fault("k-means actor", "clusters") for _ in range(3)]
    survives(Command(tmp_path, config), wanted, None, draw, undisturbed)


@pytest.mark.soak
def test_memory_runs_out(undisturbed, folder, tmp_path, draw, tmp_ray):
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    env = {"RAY_TMPDIR": str(tmp_ray)} | faults.little_memory()
    wanted = [Fault("out of memory", stage) for stage in ("proxy", "losses")]
    survives(Command(tmp_path, config, env), wanted, None, draw, undisturbed)


def test_a_target_is_trained_and_evaluated_through_deaths(
    ceph, s3_uri, undisturbed, folder, tmp_path, draw
):
    config = faults.settings(s3_uri, folder / "corpus.jsonl")
    faults.write_corpus(tmp_path / "other.jsonl", count=100, seed=1)
    config["evaluation"] = {"files": {"other": str(tmp_path / "other.jsonl")}}
    config["target"] = {**config["proxy"], "num_checkpoints": None, "zero_stage": 2}
    command, there = Command(tmp_path, config, job="evaluate"), Path(undisturbed.store.uri)
    for file in there.rglob("*"):  # up to the selection it is done
        if file.is_file():
            command.store.objects.put_file(file, str(file.relative_to(there)))
    wanted = [
        *[Fault("training worker", "targets"), Fault("driver", "targets")],
        Fault("driver", "evaluations"),
    ]
    survives(command, wanted, ceph, draw, undisturbed)
    told = command.told()
    assert "reused: corpus, tokens, proxy, losses, trajectories, clusters, selections" in told
    assert "nats per response token" in told


def test_a_generation_goes_on_after_a_death_while_it_is_scored(ceph, s3_uri, tmp_path):
    """Of a corpus that grows, in S3: the parts that were scored stay, and so does the result."""

    losses = "generations/001/losses"

    def grown(name, run_dir, die):
        shards = tmp_path / name / "shards"
        shards.mkdir(parents=True)
        config = faults.settings(run_dir, shards)
        config["corpus"] |= {"grow": True, "num_parts": 4}
        config["trajectories"] = {"workers": {"num_workers": 1}, "tokens_per_batch": 64}
        command = Command(tmp_path / name, config)
        for number, count in enumerate((300, 3000)):
            faults.write_corpus(shards / f"{number}.jsonl", count=count, seed=number)
            command.start()
            if number and die:
                wait_for(lambda: len(command.store.objects.sizes(losses)) > 1, seconds=300)
                command.kill_driver()
                left = set(command.store.objects.sizes(losses))
                assert not [name for name in left if name.endswith("manifest.json")]
                command.start()
            assert command.process.wait(faults.LIMIT) == 0, command.told()
        if die:
            assert left < set(command.store.objects.sizes(losses))
        faults.check(command.store)
        return faults.selected(command.store)

    assert grown("in_s3", s3_uri, die=True) == grown("local", tmp_path / "run", die=False)
