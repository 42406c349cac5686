"""What a selection cost, and what training on its subset spares.

Floating-point operations of passes through a model alone: 6 for each weight and token trained on,
2 for each scored (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Weights are those that a
token is multiplied with (models.parameters_at_work): all but the input embeddings, and with the
output head, which Kaplan et al. leave out and which is much of a small proxy, at label tokens; the
share of those in the corpus holds for subsets and targets too. Left out: padding, the products of
attention itself, k-means, coverage (facility_location, k_center), what details take beside the
forward pass, and the draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from s2l_ray.config import WorkersConfig
from s2l_ray.marks import liked, selection_marks, selection_name
from s2l_ray.run import Run
from s2l_ray.selectors import SELECTORS
from s2l_ray.store import Manifest, Store
from s2l_ray.subset import trainable_tokens
from s2l_ray.training import checkpoints_of


class Step(NamedTuple):
    """A stage of the selection. None: not known, or (flops) without a pass through a model.

    cpu_seconds, gpu_seconds: of all its workers together, whether busy or not.
    """

    stage: str
    seconds: float | None
    cpu_seconds: float | None
    gpu_seconds: float | None
    flops: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a selection, against the training of a target.

    Tokens are those of the proxy's tokenizer. epochs: of the target, on the subset and on the
    corpus alike; None if it trains for a fixed number of steps. like_proxy: no target is
    configured, and the epochs are the proxy's. parameters, seconds: of the target, once trained on
    the subset, as `parameters_at_work` counts.
    """

    steps: list[Step]
    corpus_tokens: int
    subset_tokens: int
    epochs: float | None
    like_proxy: bool = False
    parameters: int | None = None
    seconds: float | None = None

    @property
    def flops(self) -> float:
        return sum(step.flops or 0.0 for step in self.steps)

    @property
    def break_even(self) -> float | None:
        """Parameters of the target from which on selection and training on the subset cost less
        than training on the corpus; None if nothing is spared."""
        spared = (self.epochs or 0.0) * (self.corpus_tokens - self.subset_tokens)
        return self.flops / training_flops(1, spared) if spared > 0 else None

    @property
    def on_subset(self) -> float | None:
        return self._target(self.subset_tokens)

    @property
    def on_corpus(self) -> float | None:
        return self._target(self.corpus_tokens)

    def _target(self, tokens: int) -> float | None:
        if self.parameters is None or self.epochs is None:
            return None
        return training_flops(self.parameters, self.epochs * tokens)

    @property
    def in_words(self) -> str:
        lead = f"The selection took {self.flops:.2e} floating-point operations."
        if self.epochs is None:
            return f"{lead} The target trains for a fixed number of steps: a subset spares none."
        if self.break_even is None:
            return f"{lead} The subset has all tokens of the corpus: it spares none."
        whose = "the proxy's: no target is configured" if self.like_proxy else "the target's"
        text = (
            f"{lead} For {self.epochs:.3g} epochs ({whose}) training on the subset takes "
            f"{self.subset_tokens / self.corpus_tokens:.1%} of what the corpus takes: selection "
            f"and training together cost less than training on the corpus for a target of more "
            f"than {float(f'{self.break_even:.3g}'):,.0f} parameters."
        )
        if self.on_subset is None or self.on_corpus is None:
            return text
        spared = 1 - (self.flops + self.on_subset) / self.on_corpus
        less = "less" if spared > 0 else "more"
        return f"{text} For this one, of {self.parameters:,}, it is {abs(spared):.1%} {less}."


def training_flops(parameters: float, tokens: float) -> float:
    return 6.0 * parameters * tokens


def scoring_flops(parameters: float, tokens: float) -> float:
    return 2.0 * parameters * tokens


def cost_of(run: Run, selection: Manifest) -> Cost:
    """Of a run's selection, from the tokens on.

    Seconds are known of a training, and of other stages that this process has made as a whole.
    Stages without workers of their own may take all CPUs of the cluster, and are counted so.
    """
    config, done, choice = run.config, run.done, run.config.selection
    # Examples without a label token are neither trained on nor scored.
    proxy, corpus_tokens = done["proxy"], trainable_tokens(done["tokens"])
    labels = sum(part.stats["label_tokens"] for part in done["tokens"].parts)
    label_share = labels / corpus_tokens
    parameters = _parameters(run.store, proxy, label_share)
    made = {name: done[name].fingerprint for name in ("tokens", "proxy", "trajectories")}
    after = selection_marks(config, choice, made)
    own = {f"details/{when}" for when in SELECTORS[choice.selector].details}
    if SELECTORS[choice.selector].like:
        own |= {f"details/{when}" for when in SELECTORS[liked(choice).selector].details}
    # One pass makes a checkpoint's losses and details, of whichever selector asks for those.
    scored = set(done["losses"].info["steps"])
    details = {name: set(done[name].info["steps"]) for name in done if name.startswith("details/")}
    made_there = [name for name, steps in details.items() if steps <= scored]
    scored -= set().union(*(details[name] for name in made_there))
    steps = []
    needed = [stage for stage in after if stage in own or stage not in details]
    for stage in dict.fromkeys(["proxy", *made_there, "losses", "trajectories", *needed]):
        info, seconds, flops = done[stage].info, _seconds(run, stage), None
        number: int | None = int(ray.cluster_resources().get("CPU", 1))
        workers = WorkersConfig()
        if stage == "proxy":
            number, workers = info["workers"], config.proxy.workers
            seconds, flops = info["seconds"], training_flops(parameters, info["tokens"])
        elif stage in ("losses", "before") or stage.startswith("details/"):
            number, workers = config.trajectories.workers.num_workers, config.trajectories.workers
            if (config.trajectories.max_workers or number) > number:
                number = None  # the pool grows and shrinks
            passes = len(scored if stage == "losses" else info["steps"])
            flops = scoring_flops(parameters, passes * corpus_tokens)
        cpu, gpu = (
            None if seconds is None or number is None else seconds * number * share
            for share in (workers.cpus_per_worker, workers.gpus_per_worker)
        )
        steps.append(Step(stage, seconds, cpu, gpu, flops))
    epochs: float | None = proxy.info["tokens"] / corpus_tokens
    if config.target is not None:
        epochs = None if config.target.max_steps else config.target.epochs
    target = done.get(f"targets/{selection_name(choice.selector, choice.seed)}")
    return Cost(
        steps=steps,
        corpus_tokens=corpus_tokens,
        subset_tokens=selection.info["tokens"],
        epochs=epochs,
        like_proxy=config.target is None,
        parameters=None if target is None else _parameters(run.store, target, label_share),
        seconds=None if target is None else target.info["seconds"],
    )


def _seconds(run: Run, stage: str) -> float | None:
    """Of a stage that this process has made as a whole."""
    whole = [
        entry["seconds"]
        for entry in run.times
        if entry["stage"] == stage and not (entry["reused"] or entry["resumed"])
    ]
    return whole[-1] if whole else None


def _parameters(store: Store, training: Manifest, label_share: float) -> int:
    folder = max(checkpoints_of(training).items())[1]
    return ray.get(_count.remote(store.read_json(folder, "config.json"), label_share))


@ray.remote(num_cpus=1)
def _count(config: dict[str, Any], label_share: float) -> int:
    from s2l_ray.models import parameters_at_work  # here alone: the driver starts without torch

    return parameters_at_work(config, label_share)
