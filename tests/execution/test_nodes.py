"""What a stage asks for and no node has; what a dead training leaves reserved."""

import resource
import time

import numpy as np
import pytest
import ray
import torch
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import GPUFailed, NodeFull
from s2l_ray.execution import connect as driver
from s2l_ray.execution.nodes import check_room, device_errors, disk_errors, release


def test_a_stage_says_what_it_waits_for_and_does_not_wait_for_ever(local_ray, monkeypatch, said):
    have = int(ray.cluster_resources()["CPU"])
    check_room("score", WorkersConfig(cpus_per_worker=have))
    check_room("proxy", WorkersConfig(), have)
    assert said() == ""
    asked = [
        (WorkersConfig(), have + 1, rf"for {have + 1} with 1 CPUs each; found room for {have} on"),
        (
            WorkersConfig(gpus_per_worker=1),
            1,
            "with 1 CPUs and 1 GPUs each; found room for 0 on 1 node",
        ),
        (WorkersConfig(accelerator_type="L4"), 1, r"1 CPUs \(L4\) each; found room for 0"),
        (WorkersConfig(cpus_per_worker=have / 2 + 0.5), 2, "found room for 1 on"),
    ]
    for workers, together, wanted in asked:
        monkeypatch.setattr(driver, "_started", [])  # a cluster: nodes may come
        check_room("proxy.workers", workers, together)
        text = said()
        assert "proxy.workers: needs room for" in text and "waiting for nodes" in text
        monkeypatch.setattr(driver, "_started", [ray.get_runtime_context().get_node_id()])
        with pytest.raises(ValueError, match=wanted):
            check_room("proxy.workers", workers, together)
    full = {ray.get_runtime_context().get_node_id()}
    with pytest.raises(ValueError, match="found room for 0 on"):
        check_room("proxy.workers", WorkersConfig(), excluded=full)


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_failing_gpu_is_told_from_other_errors(local_ray, error, failed):
    expected = (GPUFailed, "GPU .*; see `nvidia-smi") if failed else (type(error), None)
    with pytest.raises(expected[0], match=expected[1]) as caught, device_errors():
        raise error
    if failed:
        assert caught.value.node == ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=0)
class Controller:
    def reserve(self):
        group = placement_group([{"CPU": 1}])
        ray.get(group.ready())
        return group


@ray.remote(num_cpus=1)
class Worker:
    pass


@pytest.mark.parametrize("write", [np.save, lambda path, array: torch.save(array, path)])
def test_a_write_cut_short_is_a_full_disk(local_ray, tmp_path, write):
    """numpy and torch raise errors without an errno, under a limit as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        message = r"node \S+: No space left on device: .* MiB free in"
        with pytest.raises(NodeFull, match=message), disk_errors():
            write(tmp_path / "file", np.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


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
