"""Real workers of a training without Ray: processes in one gloo group."""

import os
import pickle
import socket
import traceback

import torch
import torch.distributed as dist
from torch import multiprocessing


def on_ranks(function, *arguments, world=2):
    """Return function(*arguments) of each of `world` processes, in the order of their ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    processes = [
        spawn.Process(target=_work, args=(rank, world, port, results, function, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = {}
    try:
        for _ in range(world):
            rank, result, error = results.get()
            assert error is None, error
            found[rank] = pickle.loads(result)
    finally:
        for process in processes:
            process.join(20) if len(found) == world else process.kill()
    return [found[rank] for rank in range(world)]


def _work(rank, world, port, results, function, arguments):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                   "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}  # fmt: skip
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world)
        result = pickle.dumps(function(*arguments))  # tensors too, by value
        results.put((rank, result, None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
    dist.destroy_process_group()
