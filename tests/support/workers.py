"""Workers of a training as processes with gloo, without Ray."""

import os
import shutil
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from s2l_ray.models.batch import examples_of
from s2l_ray.models.loss import LabelLoss
from s2l_ray.store import Store
from s2l_ray.training.engines import make_engine, placing_of, rank_and_world
from s2l_ray.training.job import TrainingJob
from s2l_ray.training.saving import Saver
from s2l_ray.training.start import Start
from s2l_ray.training.step import share_of, train_step
from support.models import VOCAB, random_tokens

CPU = torch.device("cpu")


class Tokenizer:
    """As much of one as a training needs."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __len__(self):
        return VOCAB

    def save_pretrained(self, folder):
        Path(folder, "tokenizer_config.json").write_text("{}")


def run_workers(count, function, *args):
    """Call function(*args) in so many processes with a process group of their own."""
    folder = tempfile.mkdtemp()
    try:
        torch.multiprocessing.spawn(_work, (count, folder, function, args), nprocs=count)
    finally:
        shutil.rmtree(folder)


def _work(rank, count, folder, function, args):
    as_worker(rank, count, folder, function, *args)


def as_worker(rank, count, folder, function, *args):
    """Call function(*args) as one of `count` processes, which meet in a local folder."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(count)}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=count
    )
    function(*args)
    dist.destroy_process_group()


def train_until(uri, folder, config, last, saves, steps=6, fingerprint="f"):
    """Train in `folder` from its resume point, if there is one, to step `last` of `steps`.

    uri: or a Store. saves: steps after which the state is saved -> whether it is a checkpoint.
    """
    store = uri if isinstance(uri, Store) else Store(uri)
    job = TrainingJob(store, None, config, "", None, folder, fingerprint, 5, steps, None)
    start = Start(job)
    world = rank_and_world()[1]
    model = start.model(Tokenizer(), placing_of(config, CPU, world))
    engine = make_engine(LabelLoss(model), config, CPU, world)
    start.restore(engine)
    start.drop_copies()
    saver = Saver(job, engine, Tokenizer(), start.point)
    for step in range(start.state.step, last):
        rank, world = rank_and_world()
        asks = rank == world - 1 and step + 1 in saves  # one worker alone, for all
        if train_step(engine, batch_of(config, step), 1e-3, device=CPU, save=asks).save:
            start.state.step, start.state.workers = step + 1, world
            saver.save(start.state, publish=saves[step + 1])
    saver.wait()


def batch_of(config, step):
    rank, world = rank_and_world()
    examples = examples_of(random_tokens(40, seed=step))
    examples = [each for each in examples if each[1].any()][: config.global_batch_size]
    return share_of(examples, micro_batch_size=config.micro_batch_size, rank=rank, world=world)
