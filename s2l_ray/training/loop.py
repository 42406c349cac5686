"""The fine-tuning loop that every Ray Train worker runs.

The learning rate, the order of examples and the random numbers are functions of the step. A resume
point therefore holds weights, the optimizer's moments and the step, and no generator's state.
"""

from __future__ import annotations

import math
import time

import ray.train
import ray.train.torch
import torch
from transformers import PreTrainedModel

from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.execution.events import Point
from s2l_ray.execution.rate import Rate
from s2l_ray.models.loading import explain_out_of_memory, no_tf32
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.properties import learned_positions, steady_positions
from s2l_ray.store.preflight import check_node
from s2l_ray.store.views import TokensView
from s2l_ray.training.batches import BatchStream
from s2l_ray.training.checkpoints import checkpoint_steps
from s2l_ray.training.engines import make_engine, placing_of
from s2l_ray.training.feed import step_batches
from s2l_ray.training.job import TrainingJob
from s2l_ray.training.node_windows import NodeWindows
from s2l_ray.training.resume import ResumeTimes
from s2l_ray.training.saving import Saver
from s2l_ray.training.start import Start
from s2l_ray.training.step import dropout_seed, learning_rate, train_step

HISTORY_POINTS = 500  # at most, of the training curve

NOTICE_SECONDS = 5.0  # between two questions to Ray Train; each makes all workers wait

STEP_MEMORY = (
    "lower micro_batch_size and start again (training continues from the last resume point), or "
    "set gradient_checkpointing or a higher zero_stage"
)

SETUP_MEMORY = "set a higher zero_stage with more workers, or offload_optimizer"


class Notices:
    """Asks Ray Train now and then whether a node of the training is about to be taken away.

    `get_preemption_info` waits for all workers, so they must call it at the same step. A worker
    for which it is time says so in `due`; the step's all-reduce tells the others.
    """

    def __init__(self) -> None:
        self.leaving = self.reported = False
        self.asked = 0.0

    def look(self) -> None:
        """Ask. All workers must call it, and all get the same answer."""
        self.leaving = ray.train.get_preemption_info() is not None
        self.asked = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self.asked > NOTICE_SECONDS

    def is_new(self) -> bool:
        """Whether a node is leaving, and was not at the last call."""
        new, self.reported = self.leaving and not self.reported, self.leaving
        return new


def run(job: TrainingJob) -> None:
    """Train to the last step, from the newest resume point if there is one; or save and stop after
    job.seconds."""
    store, config, folder, steps = job.store, job.config, job.folder, job.steps
    check_node(store)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.workers.cpus_per_worker)))
    no_tf32()

    tokenizer = load_tokenizer(store, job.tokenizer_folder)
    start = Start(job)
    state = start.state
    with explain_out_of_memory(folder, "loading the weights", SETUP_MEMORY):
        model = start.model(tokenizer, placing_of(config, device, world))
    tokens = TokensView(job.tokens)
    check_length(model, tokens.max_length)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    module = LabelLoss(model, packing=config.packing)
    with explain_out_of_memory(folder, "creating weights and optimizer", SETUP_MEMORY):
        engine = make_engine(module, config, device, world)
        start.restore(engine)
    start.drop_copies()
    saver = Saver(job, engine, tokenizer, start.point)

    windows = NodeWindows(store.address(folder), job.tokens, job.seed)
    stream = BatchStream(
        lambda index: store.read_part(job.tokens.folder, job.tokens.parts[index]),
        tokens.trainable_by_part,
        seed=job.seed,
        batch_size=config.global_batch_size,
        shared=windows if context.get_local_world_size() > 1 else None,
    )
    keep = set(checkpoint_steps(config, steps))
    every = max(1, steps // HISTORY_POINTS)
    seconds_before, began = state.seconds, time.monotonic()
    stop_at = math.inf if job.seconds is None else began + job.seconds
    tokens_before, recent, speeds = state.tokens, list[float](), Rate()
    notices, ask, resume = Notices(), True, ResumeTimes(config.resume_every)
    tokens_per_row = config.micro_batch_size * tokens.max_length if config.packing else None
    batches = step_batches(
        stream,
        state.step,
        micro_batch_size=config.micro_batch_size,
        rank=rank,
        world=world,
        device=device,
        tokens_per_row=tokens_per_row,
    )
    for step in range(state.step, steps):
        asked = time.monotonic()
        batch = next(batches)
        state.waiting += time.monotonic() - asked
        torch.manual_seed(dropout_seed(job.seed, step, rank))
        rate = learning_rate(config, step, steps)
        if ask:
            notices.look()
        what = (
            f"rows of up to {tokens_per_row} packed tokens"
            if tokens_per_row
            else f"micro-batches of {config.micro_batch_size} examples of up to {batch.longest} "
            "tokens"
        )
        doing = f"training step {step + 1} with {what}"
        with explain_out_of_memory(folder, doing, STEP_MEMORY):
            result = train_step(
                engine, batch, rate, device=device,
                ask=notices.due, save=resume.is_time, stop=time.monotonic() > stop_at,
            )  # fmt: skip
        ask = result.ask
        if not math.isfinite(result.loss + result.norm):
            raise ValueError(
                f"{folder}: the training loss is {result.loss} and the gradient's norm "
                f"{result.norm} at step {step + 1} (learning rate {rate:.3g}); lower "
                "learning_rate, or check the corpus for faulty examples"
            )
        done = step + 1
        recent.append(result.loss)
        state.tokens += result.tokens
        state.padded_tokens += result.padded_tokens
        speeds.add(state.tokens)
        average = (state.tokens - tokens_before) / (time.monotonic() - began)
        speed, point = speeds.now or average, None
        if done % every == 0 or done == steps:
            state.history.append([done, round(sum(recent) / len(recent), 6)])
            point, recent = Point(done, state.history[-1][1], rate, speed), []
        if rank == 0:
            note = f"loss {result.loss:.3f}, {speed:,.0f} tokens/s"
            job.board.write.remote(done, note, point)
        leaving = notices.is_new()  # save what there is, once
        if done in keep or result.save or result.stop or resume.is_step(done) or leaving:
            state.step, state.workers = done, world
            state.seconds = seconds_before + time.monotonic() - began
            saver.save(state, publish=done in keep)
            resume.saved()
            ray.train.report({"step": done, "loss": result.loss})
        if result.stop:
            break
    saver.wait()
    windows.close()


def check_length(model: PreTrainedModel, longest: int) -> None:
    """ValueError if examples of `longest` tokens do not fit the model's positions, or if their
    losses would depend on the other examples of their batch."""
    positions, steady = learned_positions(model), steady_positions(model)
    if positions is not None and longest > positions:
        raise ValueError(
            f"prompt.max_length: {longest} tokens, but the model has embeddings of only "
            f"{positions} positions (max_position_embeddings); lower it to {positions}"
        )
    if steady is not None and longest > steady:
        raise ValueError(
            f"prompt.max_length: {longest} tokens, but beyond {steady} positions this model's "
            f"rotary embeddings change with the longest example of a batch, and so would every "
            f"loss in it; lower it to {steady}"
        )
