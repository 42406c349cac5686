"""Check a node's GPUs in seconds: driver, a product, a sum over two processes, memory and disk.

    python gpu_check.py --device cuda --ranks 2

Prints what it measured as JSON. Runs as a process of its own, so that no CUDA context stays in a
Ray worker, and imports nothing of this package. `--device cpu` does the same on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypedDict

SECONDS = 30.0  # for a node

SIZE = 512  # rows and columns of the product
TOLERANCE = 0.02  # of its largest element; bf16 has 8 bits


class Facts(TypedDict, total=False):
    """What was measured on a node. A missing entry was not measured; an error says why."""

    device: str  # such as "NVIDIA H100 80GB HBM3"
    driver: str
    driver_cuda: int  # the newest CUDA that the driver supports, such as 12040
    torch_cuda: str | None  # that torch is built for
    device_error: str
    product_error: str
    difference: float  # of the product in bf16 from that in fp64, relative to its largest element
    sum_error: str
    sum_seconds: float
    gpu_total: int  # bytes
    gpu_free: int
    disk_free: int
    disk: str
    late: float  # seconds after which nothing else was measured


def measure(device: str, ranks: int) -> Facts:
    """Measure this node. ranks: of the sum; below 2 there is none."""
    folder = tempfile.gettempdir()
    facts = Facts(disk=folder, disk_free=shutil.disk_usage(folder).free)
    with tempfile.TemporaryDirectory() as meeting:
        start = time.monotonic()
        others = [_rank(device, rank, ranks, meeting) for rank in range(ranks) if ranks > 1]
        _measure_device(facts, device)
        told = [_last_line(process) for process in others]
    if errors := [text for text in told if text]:
        facts["sum_error"] = errors[0]
    elif others:
        facts["sum_seconds"] = round(time.monotonic() - start, 1)
    return facts


def _measure_device(facts: Facts, device: str) -> None:
    import torch

    facts["torch_cuda"] = torch.version.cuda
    if device == "cuda":
        facts["driver"] = _driver()
        version = getattr(torch._C, "_cuda_getDriverVersion", None)  # a build without CUDA has none
        facts["driver_cuda"] = version() if version else 0
        try:
            torch.cuda.init()
            facts["device"] = torch.cuda.get_device_name(0)
        except Exception as error:  # of CUDA
            facts["device_error"] = _one_line(error)
            return
    try:
        a, b = (torch.randn(SIZE, SIZE, dtype=torch.float64) for _ in range(2))
        found = (a.to(device, torch.bfloat16) @ b.to(device, torch.bfloat16)).to("cpu").double()
        exact = a.bfloat16().double() @ b.bfloat16().double()
        facts["difference"] = float((found - exact).abs().max() / exact.abs().max())
        if device == "cuda":
            facts["gpu_free"], facts["gpu_total"] = torch.cuda.mem_get_info()
    except Exception as error:  # of CUDA
        facts["product_error"] = _one_line(error)


def _driver() -> str:
    return (_nvidia_smi("driver_version") or [""])[0]


def total_memory() -> float | None:
    """Return the bytes of this node's smallest GPU, as NVIDIA's driver tells; None without one."""
    sizes = [int(text) for text in _nvidia_smi("memory.total") if text.isdecimal()]
    return min(sizes) * 2**20 if sizes else None


def _nvidia_smi(field: str) -> list[str]:
    """Return a field of each GPU, or nothing if there is no driver."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines()]


def _rank(device: str, rank: int, ranks: int, meeting: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--device", device, "--ranks", str(ranks)]
    command += ["--rank", str(rank), "--meeting", str(Path(meeting, "meeting"))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _last_line(process: subprocess.Popen[str]) -> str:
    """Return what a failed process said last, or "" if it succeeded."""
    told, _ = process.communicate()
    return "" if process.returncode == 0 else (told.strip().splitlines() or ["no message"])[-1]


def _sum(device: str, rank: int, ranks: int, meeting: str) -> None:
    """Add up the ranks' numbers, as training adds up gradients."""
    import torch
    import torch.distributed as dist

    place = torch.device(device, rank) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{meeting}", rank=rank, world_size=ranks,
    )  # fmt: skip
    numbers = torch.full((1 << 20,), rank + 1.0, device=place)
    dist.all_reduce(numbers)
    expected = ranks * (ranks + 1) / 2
    if not bool((numbers == expected).all()):
        raise RuntimeError(f"the sum over {ranks} GPUs is {float(numbers[0])}, not {expected}")
    dist.destroy_process_group()


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# -- on the driver


def faults(node: str, facts: Facts, *, gpu: float = 0.0) -> list[str]:
    """Say what of a node cannot work, and what to do. gpu: bytes that a worker surely needs."""
    found, driver = [], facts.get("driver") or "unknown"
    built, supported = facts.get("torch_cuda"), facts.get("driver_cuda")
    if built is None and supported is not None:
        found.append("torch is built without CUDA; install a build with it (pip install torch)")
    elif built is not None and supported == 0:
        found.append("there is no NVIDIA driver, or the container does not see it; install it")
    elif built is not None and supported and supported // 1000 < int(built.split(".")[0]):
        newest = f"{supported // 1000}.{supported % 1000 // 10}"
        found.append(
            f"the driver ({driver}) supports CUDA {newest}, but torch is built for {built}; "
            f"install a newer driver, or a build of torch for CUDA {newest}"
        )
    elif error := facts.get("device_error"):
        found.append(f"torch cannot use the GPU: {error}; look at `nvidia-smi` there")
    if error := facts.get("product_error"):
        found.append(
            f"a bf16 product fails on {facts.get('device', 'the device')}: {error}; use a GPU and "
            f"a build of torch that fit together, or leave this node out"
        )
    elif facts.get("difference", 0.0) > TOLERANCE:
        found.append(
            f"a bf16 product on {facts.get('device', 'the device')} is wrong by "
            f"{facts['difference']:.1%}; the GPU is faulty: leave this node out"
        )
    if error := facts.get("sum_error"):
        found.append(
            f"two GPUs cannot add up their numbers: {error}; run with NCCL_DEBUG=INFO, and give a "
            f"container more shared memory (/dev/shm)"
        )
    free, total = facts.get("gpu_free"), facts.get("gpu_total")
    if free is not None and total is not None and free < gpu <= total:
        found.append(
            f"{free / 1e9:.0f} of {total / 1e9:.0f} GB are free on the GPU, but a worker needs "
            f"{gpu / 1e9:.0f} GB; end the other processes that `nvidia-smi` shows there"
        )
    return [f"node {node}: {text}" for text in found]


def doubts(node: str, facts: Facts, *, disk: float) -> list[str]:
    """Say what of a node may go wrong. disk: bytes of models and resume points that pass through
    it."""
    found = []
    if late := facts.get("late"):
        found.append(
            f"the check of its GPUs gave no answer within {late:.0f} s; if the training hangs too, "
            f"run with NCCL_DEBUG=INFO"
        )
    free = facts.get("disk_free")
    if free is not None and free < disk:
        found.append(
            f"{free / 1e9:.0f} GB are free in {facts['disk']}, but models and resume points may "
            f"take {disk / 1e9:.0f} GB; free some, or set TMPDIR for Ray to a larger disk"
        )
    return [f"node {node}: {text}" for text in found]


def run(device: str, ranks: int, seconds: float = SECONDS) -> Facts:
    """Measure this node in a process of its own, within so many seconds."""
    command = [sys.executable, __file__, "--device", device, "--ranks", str(ranks)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        told, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return Facts(late=seconds)
    if process.returncode:
        return Facts(device_error=(said.strip().splitlines() or ["no message"])[-1])
    return json.loads(told.strip().splitlines()[-1])


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process and those that it started: they are a session of their own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--ranks", type=int, default=1, help="of a sum over processes")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--meeting", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        _sum(given.device, given.rank, given.ranks, given.meeting)
        return
    print(json.dumps(measure(given.device, given.ranks)))


if __name__ == "__main__":
    main()
