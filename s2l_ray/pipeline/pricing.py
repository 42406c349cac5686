"""What each stage of a run would take: passes, time, processor-hours, bytes, requests and money."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

from s2l_ray.analysis.cost import scoring_flops
from s2l_ray.config import RunConfig, TrainingConfig, WorkersConfig
from s2l_ray.config.prices import PricesConfig
from s2l_ray.corpus.dividing import LARGE_PACK
from s2l_ray.execution.connect import starts_ray
from s2l_ray.pipeline import timing
from s2l_ray.pipeline.forecast import DONE, Forecast
from s2l_ray.pipeline.race_price import race_price
from s2l_ray.pipeline.rates import Rate, Size, operations_of
from s2l_ray.pipeline.timing import Stored
from s2l_ray.pipeline.toward import path_config
from s2l_ray.pipeline.workload import Workload
from s2l_ray.selection.kinds import OUT_OF_FOLD
from s2l_ray.selection.selectors import selector_named
from s2l_ray.selection.subset import part_rows
from s2l_ray.training.checkpoints import checkpoint_steps, num_steps


class Price(NamedTuple):
    """What a stage takes. None: unknown, or for flops: no pass through a model.

    seconds: wall time, alone on the configured workers. cpu_hours, gpu_hours: reserved, busy or
    idle. A stage that is done takes nothing and keeps its bytes.
    """

    stage: str
    state: str
    examples: int = 0
    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = 0.0
    cpu_hours: float | None = 0.0
    gpu_hours: float | None = 0.0
    stored: Stored = Stored()
    at_once: int = 1  # stages of this kind run side by side

    def money(self, prices: PricesConfig) -> float | None:
        """Of processors and requests, and of a month on the store."""
        if self.cpu_hours is None or self.gpu_hours is None:
            return None
        return (
            self.cpu_hours * prices.cpu_hour
            + self.gpu_hours * prices.gpu_hour
            + self.stored.bytes / 1e9 * prices.gb_month
            + self.stored.puts / 1000 * prices.thousand_puts
            + self.stored.gets / 1000 * prices.thousand_gets
        )


@dataclass(frozen=True)
class Pricing:
    """Prices the stages of a run."""

    work: Workload
    sizes: dict[str, Size]
    rates: dict[str, Rate]

    @property
    def config(self) -> RunConfig:
        return self.work.config

    @property
    def cpus(self) -> float:
        """Of the cluster, for stages without workers: this machine's, or as many as the configured
        workers take, if these are more."""
        config = self.config
        found = [config.proxy.workers, config.trajectories.workers]
        found += [config.target.workers] if config.target else []
        reserved = [each.num_workers * each.cpus_per_worker for each in found]
        return max(len(os.sched_getaffinity(0)), *reserved)

    @property
    def steps(self) -> list[int]:
        """Steps of the proxy's checkpoints."""
        proxy = self.config.proxy
        if proxy.checkpoints is not None:
            return list(range(len(proxy.checkpoints)))
        return checkpoint_steps(proxy, num_steps(proxy, self.work.proxy.examples))

    @property
    def scored(self) -> int:
        """Checkpoints that the stage `losses` scores: others are scored with signals."""
        selectors = [each.selector for each in self.config.selection.contenders]
        if self.config.target is not None:
            selectors += self.config.evaluation.baselines
        signals = {when for each in selectors for when in selector_named(each).details}
        return max(0, len(self.steps) - len(signals))

    def price(self, stage: Forecast) -> Price:
        """Price a stage by its name."""
        kind, _, rest = stage.stage.partition("/")
        if kind.startswith("generation-"):
            part = replace(self, work=self.work.generation(int(kind.rpartition("-")[2])))
            return part.price(stage._replace(stage=rest))._replace(stage=stage.stage)
        if kind.startswith("fold-") and rest != "tokens":
            half = replace(self, work=self.work.half)
            return half.price(stage._replace(stage=rest))._replace(stage=stage.stage)
        if kind == "purpose" and rest != "examples":
            mine = replace(self, work=self.work.of_purpose)
            return mine.price(stage._replace(stage=rest))._replace(stage=stage.stage)
        if kind == "toward":  # a training on the purpose, and the whole corpus scored along it
            work = self.work.of_purpose if rest == "proxy" else self.work
            path = replace(self, work=replace(work, config=path_config(self.config)))
            return path.price(stage._replace(stage=rest))._replace(stage=stage.stage)
        if kind == "race":
            return race_price(self, stage)
        made = {
            "purpose": self._purpose,
            "corpus": self._corpus,
            "tokens": self._tokens,
            "proxy": self._proxy,
            "losses": self._losses,
            "before": self._one_pass,
            "without_prompt": self._derived if rest else self._one_pass,
            "fold-0": self._derived,
            "fold-1": self._derived,
            "details": self._one_pass,
            "trajectories": self._trajectories,
            "trajectories_out_of_fold": self._trajectories,
            "near_duplicates": self._near_duplicates,
            "selections": self._selection,
            "exports": self._export,
            "targets": self._target,
            "evaluations": self._evaluations,
        }.get(kind, self._groups)(stage)
        if stage.state == DONE:
            kept = Stored(made.stored.bytes)
            return Price(stage.stage, DONE, made.examples, stored=kept)
        return made

    # -- stages of tasks

    def _tasks(
        self, stage: Forecast, cpu_seconds: float, stored: Stored, start: float = timing.TASKS
    ) -> Price:
        seconds = start + cpu_seconds / self.cpus
        hours = seconds * self.cpus / 3600
        return Price(
            stage.stage, stage.state, self.work.proxy.examples,
            seconds=seconds, cpu_hours=hours, stored=stored,
        )  # fmt: skip

    def _corpus(self, stage: Forecast) -> Price:
        work = self.work
        parts = work.num_parts * (2 if work.heldout else 1)
        stored = Stored(work.corpus_bytes, parts + 4, -(-work.source_bytes // LARGE_PACK))
        return self._tasks(stage, work.read_seconds + timing.WRITING * work.rows, stored)

    def _purpose(self, stage: Forecast) -> Price:
        """The purpose without what the corpus has too, for which the corpus is searched."""
        work, mine = self.work, self.work.of_purpose
        stored = Stored(mine.corpus_bytes, mine.num_parts + 1, work.num_parts + mine.num_parts)
        found = self._tasks(stage, timing.SEARCHING * work.rows, stored)
        return found._replace(examples=mine.rows)

    def _tokens(self, stage: Forecast) -> Price:
        counts, parts = self.work.proxy, self.work.num_parts
        start = timing.TASKS + counts.tokenizer_seconds / self.cpus
        return self._tasks(stage, counts.seconds, Stored(counts.bytes, parts + 3, parts + 4), start)

    def _derived(self, stage: Forecast) -> Price:
        """Tokens made of tokens."""
        work = self.work
        stored = Stored(work.proxy.bytes / 2, work.num_parts + 1, work.num_parts)
        return self._tasks(stage, timing.RANKING * work.proxy.examples, stored)

    def _near_duplicates(self, stage: Forecast) -> Price:
        work, name = self.work, stage.stage.rpartition("/")[2]
        examples, passes = work.proxy.examples, 3 if name == "groups" else 1
        each = timing.GROUPING if name == "groups" else timing.SIGNING
        size = timing.SIGNATURE if name == "signatures" else timing.GROUP
        stored = Stored(size * examples, passes * work.num_parts + 1, passes * work.num_parts)
        return self._tasks(stage, each * examples, stored)

    def _trajectories(self, stage: Forecast) -> Price:
        work, steps = self.work, self._checkpoints(stage)
        losses = work.proxy.examples * steps
        stored = Stored(
            timing.TRAJECTORY * losses, work.num_parts + 1, work.num_parts * (steps + 1)
        )
        return self._tasks(stage, timing.ASSEMBLING * losses, stored, start=0.1)

    def _checkpoints(self, stage: Forecast) -> int:
        """The length of the trajectories that a stage has or reads."""
        folded = stage.stage in ("trajectories_out_of_fold", *OUT_OF_FOLD)
        return len((replace(self, work=self.work.half) if folded else self).steps)

    def _groups(self, stage: Forecast) -> Price:
        """Clusters, rankings and what they are made from."""
        work, name = self.work, stage.stage.rpartition("/")[2]
        examples, n = work.proxy.examples, self.config.clusters.n_clusters
        stored = Stored(timing.GROUP * examples, work.num_parts + 2, 3 * work.num_parts)
        if stage.stage.startswith("clusters"):
            width = self._checkpoints(stage)
            seconds = timing.clustering(examples, width, n, self.cpus)
            hours = seconds * self.cpus / 3600
            return Price(
                stage.stage, stage.state, examples,
                seconds=seconds, cpu_hours=hours, stored=stored,
            )  # fmt: skip
        each = timing.RANKING
        if name in timing.PAIRS:
            each = timing.PAIRS[name] * work.chosen(self.config.selection.budget)
        return self._tasks(stage, each * examples, stored)

    def _selection(self, stage: Forecast) -> Price:
        # The groups are read twice, for the histogram and for the rows.
        return self._copied(stage, timing.DRAWING * self.work.proxy.examples, reads=4)

    def _export(self, stage: Forecast) -> Price:
        each = timing.WRITING * self.work.chosen(self.config.selection.budget)
        return self._copied(stage, each, reads=2)

    def _copied(self, stage: Forecast, cpu_seconds: float, reads: int) -> Price:
        """The chosen examples, written once more. reads: of each part."""
        work = self.work
        chosen = work.chosen(self.config.selection.budget)
        share = chosen / max(1, work.proxy.examples)
        files = 3 + -(-chosen // part_rows(chosen))
        stored = Stored(work.corpus_bytes * share, files, reads * work.num_parts)
        made = self._tasks(stage, cpu_seconds, stored, start=0.1)
        return made._replace(examples=chosen, tokens=chosen * work.proxy.tokens_each)

    # -- passes through a model

    def _proxy(self, stage: Forecast) -> Price:
        if not self.config.trains_proxy:
            return Price(stage.stage, stage.state)
        work = self.work
        found = self._training(stage, "proxy", self.config.proxy, work.proxy.examples)
        steps = num_steps(self.config.proxy, work.proxy.examples)
        epochs = steps * self.config.proxy.global_batch_size / max(1, work.proxy.examples)
        files = timing.MODEL_FILES * len(self.steps) + 1
        size = self._model_bytes("proxy", self.config.proxy) * len(self.steps)
        return found._replace(stored=Stored(size, files, work.num_parts * epochs))

    def _target(self, stage: Forecast) -> Price:
        target, work = self.config.target, self.work
        assert target is not None
        chosen = work.chosen(self.config.selection.budget)
        found = self._training(stage, "target", target, chosen)
        stored = Stored(self._model_bytes("target", target), timing.MODEL_FILES + 4, 8)
        return found._replace(stored=stored)

    def _training(
        self, stage: Forecast, section: str, training: TrainingConfig, examples: int
    ) -> Price:
        counts = self.work.target if section == "target" else self.work.proxy
        assert counts is not None
        steps = num_steps(training, examples)
        tokens = steps * training.global_batch_size * counts.tokens_each
        rate, size = self.rates[section], self.sizes.get(section)
        flops = operations_of(training, size) * tokens if size else None
        seconds = None
        if rate.training is not None:
            beside = 1.0 if training.workers.gpus_per_worker else timing.BESIDE
            start = timing.RAY_TRAIN * rate.at_once + (rate.start or timing.WORKERS)
            if training.fits_a_task(training.workers.num_workers) and starts_ray():
                start = timing.IN_A_TASK
            start += self._reading(section)
            seconds = start + beside * tokens / (rate.training * training.workers.num_workers)
        return self._on(
            stage, training.workers, seconds,
            examples=examples, tokens=tokens, flops=flops, at_once=rate.at_once,
        )  # fmt: skip

    def _losses(self, stage: Forecast) -> Price:
        work = self.work
        if self.config.losses is not None:
            return self._tasks(stage, timing.RANKING * work.proxy.examples, Stored())
        found = self._scoring(stage, "proxy", work.proxy.tokens, self.scored)
        size = timing.LOSS * work.proxy.examples * len(self.steps)
        windows = work.num_parts + timing.MODEL_FILES * self.scored
        stored = Stored(size, work.num_parts * len(self.steps) + 1, windows)
        return found._replace(examples=work.proxy.examples, stored=stored)

    def _one_pass(self, stage: Forecast) -> Price:
        work = self.work
        found = self._scoring(stage, "proxy", work.proxy.tokens, 1)
        stored = Stored(2 * timing.LOSS * work.proxy.examples, work.num_parts + 1, work.num_parts)
        return found._replace(examples=work.proxy.examples, stored=stored)

    def _evaluations(self, stage: Forecast) -> Price:
        work, targets = self.work, stage.targets
        assert work.target is not None
        found = self._scoring(stage, "target", work.measured * work.target.tokens_each, targets)
        parts = min(work.num_parts, max(1, work.measured)) * targets
        stored = Stored(timing.LOSS * work.measured * targets, parts + targets, 2 * parts)
        return found._replace(examples=work.measured, stored=stored)

    def _scoring(self, stage: Forecast, section: str, tokens: float, models: int) -> Price:
        """tokens: of each pass."""
        workers = stage.workers or WorkersConfig()
        rate, size = self.rates[section], self.sizes.get(section)
        flops = scoring_flops(size.at_work, tokens * models) if size else None
        seconds = None
        if rate.scoring is not None:
            seconds = timing.ACTORS + timing.LOADING * max(0, models - 1)
            seconds += models * self._reading(section)
            seconds += tokens * models / (rate.scoring * workers.num_workers)
        return self._on(stage, workers, seconds, tokens=tokens * models, flops=flops)

    def _on(
        self,
        stage: Forecast,
        workers: WorkersConfig,
        seconds: float | None,
        *,
        examples: int = 0,
        tokens: float,
        flops: float | None,
        at_once: int = 1,
    ) -> Price:
        cpu, gpu = (
            None if seconds is None else seconds * workers.num_workers * share / 3600
            for share in (workers.cpus_per_worker, workers.gpus_per_worker)
        )
        return Price(
            stage.stage, stage.state, examples, tokens, flops, seconds, cpu, gpu, at_once=at_once
        )

    def _reading(self, section: str) -> float:
        """Seconds of reading a model's weights."""
        size = self.sizes.get(section)
        return timing.WEIGHT * size.weights / timing.READING if size else 0.0

    def _model_bytes(self, section: str, training: TrainingConfig) -> float:
        size = self.sizes.get(section)
        if size is None:
            return 0.0
        adapters = training.lora is not None and not training.lora.merge
        return timing.WEIGHT * size.weights * (timing.ADAPTERS if adapters else 1.0)


def total(prices: list[Price]) -> Price:
    """Sum up a run: its wall time has RUN, and trainings side by side count once."""

    def summed(name: str) -> float | None:
        values = [getattr(price, name) for price in prices]
        return None if None in values else float(sum(values))

    seconds = summed("seconds")
    if seconds is not None:
        seconds = timing.RUN + sum((price.seconds or 0.0) / price.at_once for price in prices)
    return Price(
        "all", "",
        flops=sum(price.flops or 0.0 for price in prices),
        seconds=seconds,
        cpu_hours=summed("cpu_hours"),
        gpu_hours=summed("gpu_hours"),
        stored=Stored(*(sum(column) for column in zip(*(p.stored for p in prices), strict=True))),
    )  # fmt: skip
