"""What is measured on a GPU node, and what is said of it."""

import pytest

from s2l_ray.execution import gpu_check
from s2l_ray.execution.gpu_check import Facts, doubts, faults

GOOD = Facts(
    device="NVIDIA H100 80GB HBM3", driver="580.95", driver_cuda=13000, torch_cuda="13.0",
    difference=0.003, sum_seconds=6.0, gpu_total=85_000_000_000, gpu_free=84_000_000_000,
    disk_free=400_000_000_000, disk="/tmp",
)  # fmt: skip


def test_nothing_is_said_of_a_node_that_works():
    assert faults("n", GOOD, gpu=60e9) == [] and doubts("n", GOOD, disk=100e9) == []


@pytest.mark.parametrize("changes, said", [
    ({"torch_cuda": None}, "torch is built without CUDA; install a build with it"),
    ({"driver_cuda": 0}, "there is no NVIDIA driver, or the container does not see it"),
    ({"driver": "535.54", "driver_cuda": 12020},
     "the driver (535.54) supports CUDA 12.2, but torch is built for 13.0; install a newer driver"),
    ({"device_error": "CUDA unknown error"}, "torch cannot use the GPU: CUDA unknown error"),
    ({"product_error": "no kernel image is available"},
     "a bf16 product fails on NVIDIA H100 80GB HBM3: no kernel image is available"),
    ({"difference": 0.3}, "is wrong by 30.0%; the GPU is faulty"),
    ({"sum_error": "NCCL error: unhandled system error"},
     "two GPUs cannot add up their numbers: NCCL error: unhandled system error"),
    ({"gpu_free": 10_000_000_000}, "10 of 85 GB are free on the GPU, but a worker needs 60 GB"),
])  # fmt: skip
def test_each_fault_is_one_sentence_that_names_the_node(changes, said):
    [sentence] = faults("ip-10-0-0-7", GOOD | changes, gpu=60e9)
    assert sentence.startswith("node ip-10-0-0-7: ") and said in sentence


def test_a_newer_minor_version_of_cuda_in_torch_works_with_the_driver():
    assert faults("n", GOOD | {"driver_cuda": 12020, "torch_cuda": "12.8"}) == []


def test_what_a_node_can_never_hold_is_left_to_the_estimate():
    assert faults("n", GOOD, gpu=200e9) == []


def test_a_small_disk_and_no_answer_are_doubts():
    [late] = doubts("n", Facts(late=30.0), disk=1e9)
    assert "no answer within 30 s" in late
    [disk] = doubts("n", GOOD | {"disk_free": 20_000_000_000}, disk=95e9)
    assert "20 GB are free in /tmp, but models and resume points may take 95 GB" in disk


@pytest.mark.slow
def test_the_probe_measures_this_machine():
    """The same code as on a GPU: a product, and a sum over two processes."""
    facts = gpu_check.run("cpu", 2, seconds=300)
    assert 0 < facts["difference"] < gpu_check.TOLERANCE and facts["sum_seconds"] > 0
    assert facts["disk_free"] > 0 and "sum_error" not in facts
    assert faults("here", facts) == []


def test_a_probe_that_hangs_is_ended(monkeypatch):
    assert gpu_check.run("cpu", 2, seconds=0.2) == {"late": 0.2}


@pytest.mark.slow
def test_without_a_gpu_the_probe_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    facts = gpu_check.run("cuda", 1, seconds=300)
    [sentence] = faults("here", facts)
    assert "without CUDA" in sentence or "no NVIDIA driver" in sentence
