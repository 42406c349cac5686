"""What a dead training leaves reserved."""

import time

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s2l_ray.nodes import release


@ray.remote(num_cpus=0)
class Controller:
    def reserve(self):
        group = placement_group([{"CPU": 1}])
        ray.get(group.ready())
        return group


@ray.remote(num_cpus=1)
class Worker:
    pass


def test_groups_of_the_dead_are_freed_and_no_others(local_ray):
    earlier = placement_group([{"CPU": 1}])
    ray.get(earlier.ready())
    before = set(placement_group_table())
    controller = Controller.remote()
    dead = ray.get(controller.reserve.remote())
    used = placement_group([{"CPU": 1}])
    worker = Worker.options(scheduling_strategy=PlacementGroupSchedulingStrategy(used)).remote()
    ray.get(worker.__ray_ready__.remote())
    ray.kill(controller)
    time.sleep(1)

    def state(group):
        return placement_group_table(group)["state"]

    assert state(dead) == "CREATED"  # Ray does not free it: else `release` has nothing to do
    release(before)
    assert [state(group) for group in (dead, used, earlier)] == ["REMOVED", "CREATED", "CREATED"]
    ray.kill(worker)
    remove_placement_group(used)
    remove_placement_group(earlier)
