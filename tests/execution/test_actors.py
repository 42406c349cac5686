"""The pool of actors: who joins, who dies, and that neither changes a result."""

import json
import os
import signal
import subprocess
import sys

import pytest
import ray
from support.head import REPOSITORY, environment

from s2l_ray.execution import actors as pool
from s2l_ray.execution.actors import ActorPool
from s2l_ray.execution.tree import Tree


@ray.remote(num_cpus=1)
class Doubler:
    def run(self, chunks, method, *args):
        if method == "die":
            os._exit(1)
        if method == "refuse":
            raise ValueError(f"chunk {chunks[0]} is not wanted")
        return [(2 * chunk + sum(args), os.getpid()) for chunk in chunks]

    def total(self, chunks, numbers, leaves, combine, method, *args):
        tree = Tree(leaves, combine)
        for number, chunk in zip(numbers, chunks, strict=True):
            tree.add(0, number, f"({2 * chunk + sum(args)})")
        return tree.nodes()


def test_results_come_in_the_order_of_chunks(local_ray):
    with ActorPool(Doubler, range(7), 3) as actors:
        results = actors.each_chunk("double", 100)
        assert [value for value, _ in results] == [100, 102, 104, 106, 108, 110, 112]
        assert len({pid for _, pid in results}) == 3


def test_some_chunks(local_ray):
    with ActorPool(Doubler, range(7), 3) as actors:
        results = actors.each_chunk("double", 100, only=[1, 2, 6])
        assert [value for value, _ in results] == [102, 104, 112]


def joined(left, right):
    return "(" + "".join(sorted([left, right])) + ")"


@pytest.mark.parametrize("num_actors", [1, 3])
def test_a_total_has_one_order_whoever_has_the_chunks(local_ray, num_actors):
    with ActorPool(Doubler, range(7), num_actors) as actors:
        total = actors.total(joined, "double", 10)
    assert total == "((((10)(12))((14)(16)))(((18)(20))(22)))"


@pytest.mark.slow
def test_more_actors_than_cpus_or_chunks(local_ray, monkeypatch):
    monkeypatch.setattr(pool, "_START_SECONDS", 10.0)
    with ActorPool(Doubler, range(20), 9) as actors:  # of which four find a CPU
        for _ in range(2):
            assert len({pid for _, pid in actors.each_chunk("double")}) == 4
    with ActorPool(Doubler, range(2), 9) as actors:
        assert len({pid for _, pid in actors.each_chunk("double")}) == 2


def test_an_error_arrives_as_it_was(local_ray):
    with (
        ActorPool(Doubler, [5], 1) as actors,
        pytest.raises(ValueError, match=r"^chunk 5 is not wanted$"),
    ):
        actors.each_chunk("refuse")


def test_actors_that_die_again_and_again_end_the_pool(local_ray, monkeypatch):
    monkeypatch.setattr(pool, "_MAX_DEATHS", 3)
    with ActorPool(Doubler, range(4), 2) as actors:
        actors.each_chunk("double")
        with pytest.raises(ray.exceptions.RayActorError):
            actors.each_chunk("die")
        assert actors.deaths == 3


def test_all_actors_of_a_node_at_once_are_one_death(local_ray, monkeypatch):
    monkeypatch.setattr(pool, "_MAX_DEATHS", 3)
    with ActorPool(Doubler, range(4), 4) as actors:
        pids = {pid for _, pid in actors.each_chunk("double")}
        assert len(pids) == 4
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert [value for value, _ in actors.each_chunk("double")] == [0, 2, 4, 6]
        assert len({pid for _, pid in actors.each_chunk("double")}) == 3  # one CPU is left free


@pytest.mark.slow
def test_nodes_join_and_leave_in_the_middle():
    """In a process of its own, since there its Ray has several nodes (nodes_that_join.py)."""
    script = REPOSITORY / "tests/support/nodes_that_join.py"
    done = subprocess.run(
        [sys.executable, script], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    come_and_go, go_with_rows = json.loads(done.stdout.splitlines()[-1])
    assert come_and_go["same"] and come_and_go["n_iter"] > 12
    assert come_and_go["actors"] == {"1": 1, "5": 4, "9": 2}  # of three CPUs one is left free
    assert go_with_rows["same"] and go_with_rows["n_iter"] > 12
    assert go_with_rows["actors"] == {"1": 4, "7": 1}
