"""The whole configuration of a run."""

from __future__ import annotations

import re
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.corpus import CorpusConfig, PromptConfig
from s2l_ray.config.evaluation import CompareConfig, DiagnoseConfig, EvaluationConfig, ReportConfig
from s2l_ray.config.prices import PricesConfig
from s2l_ray.config.selection import (
    ClustersConfig,
    LossesConfig,
    SelectionConfig,
    TrajectoriesConfig,
)
from s2l_ray.config.storage import StorageConfig
from s2l_ray.config.training import TrainingConfig
from s2l_ray.config.values import RACE, Location, Seed, shown


class RunConfig(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = Field(
        "run", description="Title of the run in its reports: letters, digits, `_`, `.` and `-`."
    )
    run_dir: Location = Field(
        description="Folder of everything that the run makes: a local path, which every node must "
        "see, or `s3://bucket/prefix`."
    )
    seed: Seed = Field(
        42,
        description="Seed of the proxy's training, of initial weights and of the held-out draw. "
        "`clusters.random_state` and `selection.seed` are separate.",
    )
    corpus: CorpusConfig = Field(description="The examples to select from.")
    prompt: PromptConfig = Field(
        PromptConfig(), description="How an example becomes text for the proxy."
    )
    proxy: TrainingConfig = Field(
        description="The small model, fine-tuned on the whole corpus, whose losses are recorded. "
        "Needs at least 2 checkpoints."
    )
    trajectories: TrajectoriesConfig = Field(
        TrajectoriesConfig(),
        description="How examples are scored at the checkpoints; evaluation uses these settings "
        "too, with workers of its own if `evaluation.workers` is set.",
    )
    losses: LossesConfig | None = Field(
        None,
        description="Losses computed elsewhere. The proxy is then not trained; `proxy.model` names "
        "the tokenizer. `null` trains and scores the proxy.",
    )
    clusters: ClustersConfig = Field(
        ClustersConfig(), description="How trajectories are clustered."
    )
    selection: SelectionConfig = Field(
        SelectionConfig(), description="Which examples are chosen, and how many."
    )
    target: TrainingConfig | None = Field(
        None,
        description="The large model to fine-tune on the subset. `null` if the run only selects.",
    )
    target_prompt: PromptConfig | None = Field(
        None, description="How an example becomes text for the target. `null` means as in `prompt`."
    )
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="Held-out examples, question sets and baselines."
    )
    compare: CompareConfig = Field(CompareConfig(), description="What `compare` compares.")
    diagnose: DiagnoseConfig = Field(DiagnoseConfig(), description="What `diagnose` varies.")
    report: ReportConfig = Field(ReportConfig(), description="Content of the report.")
    prices: PricesConfig | None = Field(
        None, description="Prices for `plan` and `pilot`. `null` prints no money."
    )
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="GPU-hours that all commands on the run directory may take together: seconds "
        "of trainings and of scoring times the GPUs of their workers. A run that reaches them "
        "stops at a resume point or after a part, and goes on when the limit is raised. A loop of "
        "`target.train` is not stopped midway. Scoring beside a training "
        "(`trajectories.while_training`) counts with its whole pool. `null` sets no limit. "
        "Untested on GPUs.",
    )
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        [],
        description="Where training curves, times and selections are logged too; each needs the "
        "extra of its name. No text of examples leaves for a tracker.",
    )
    storage: StorageConfig = Field(
        StorageConfig(), description="How the object store of an `s3://` run_dir is reached."
    )

    @field_validator("run_dir")
    @classmethod
    def _place(cls, value: str) -> str:
        if "://" in value and not re.fullmatch(r"s3://[^/@:?#\s]+(/[^@?#]*)?", value):
            raise ValueError(
                "expected a local path or s3://bucket/prefix, without credentials or options"
            )
        return value

    @property
    def trains_proxy(self) -> bool:
        """Whether the run trains its proxy: it has neither its losses nor its checkpoints."""
        return self.losses is None and self.proxy.checkpoints is None

    @property
    def has_heldout(self) -> bool:
        """Whether the run has examples to evaluate on."""
        return self.corpus.holds_out or bool(self.evaluation.files)

    @property
    def races(self) -> bool:
        """Whether some selector of the run is `race`, so that targets are evaluated on the half of
        the held-out examples that decides no race."""
        compare = self.compare
        named = [self.selection.selector, *self.evaluation.baselines]
        named += [*compare.selectors, *compare.also, *chain(*compare.mixed)]
        return RACE in named

    def _check_race(self) -> None:
        field = f"selector {RACE}"
        if not self.has_heldout:
            raise ValueError(
                f"{field} evaluates models on held-out examples, and there are none: set "
                "corpus.heldout_share (such as 0.05), corpus.heldout_per_source or evaluation.files"
            )
        if self.corpus.grow:
            raise ValueError(
                f"corpus.grow: found true with {field}, whose winner could change with each new "
                "file: race on one corpus, and name the winner in selection.selector of the one "
                "that grows"
            )
        if self.selection.race.model == "target" and (self.target is None or self.target.train):
            found = "no target" if self.target is None else f"target.train: {self.target.train}"
            raise ValueError(
                f"selection.race.model: target needs a target that the built-in loop trains, found "
                f"{found}: set selection.race.model: proxy"
            )

    @field_validator("proxy", mode="before")
    @classmethod
    def _built_in(cls, value: Any) -> Any:
        if isinstance(value, dict) and (train := value.get("train")) is not None:
            raise ValueError(
                f"train: found {shown(train)}, but only the target can have a training loop of its "
                "own, because examples are scored at the proxy's checkpoints; leave it out"
            )
        return value

    def _check_growth(self) -> None:
        corpus, either = self.corpus, "leave out one of the two"
        kept, per_source = self.proxy.keep_checkpoints, corpus.heldout_per_source
        excluded = [
            (self.losses, "losses.path", f"new examples are scored by the proxy: {either}"),
            (
                kept,
                f"proxy.keep_checkpoints: {kept}",
                f"new examples are scored at every checkpoint: {either}",
            ),
            (
                corpus.duplicates != "drop",
                f"corpus.duplicates: {corpus.duplicates}",
                "rows that repeat older ones are dropped: set corpus.duplicates: drop",
            ),
            (
                per_source,
                f"corpus.heldout_per_source: {per_source}",
                "each generation would set as many aside again: set corpus.heldout_share, which "
                "draws each example by its content",
            ),
        ]
        for found, setting, why in excluded:
            if found:
                raise ValueError(f"corpus.grow: found true with {setting}; {why}")

    @model_validator(mode="after")
    def _whole(self) -> RunConfig:
        kept = (self.proxy.num_checkpoints, self.proxy.checkpoint_every)
        if self.trains_proxy and kept == (None, None):
            raise ValueError("proxy: set num_checkpoints (2 or more) or checkpoint_every")
        if self.proxy.num_checkpoints is not None and self.proxy.num_checkpoints < 2:
            raise ValueError("proxy.num_checkpoints must be 2 or more, the least for a trajectory")
        if self.target and self.target.max_steps and "epochs" in self.compare.full:
            raise ValueError(
                "compare.full: epochs would train as long as a subset does, because "
                "target.max_steps fixes the steps of both: leave out one of the two"
            )
        if self.corpus.grow:
            self._check_growth()
        if self.races:
            self._check_race()
        if self.losses is not None and self.proxy.checkpoints is not None:
            raise ValueError("set losses or proxy.checkpoints, not both")
        if self.target and self.target.checkpoints is not None:
            raise ValueError("target.checkpoints: a target is trained; only the proxy takes them")
        if not self.trains_proxy and self.trajectories.while_training:
            raise ValueError("trajectories.while_training needs a proxy that the run trains")
        if self.diagnose.gradients and self.target is None:
            raise ValueError("diagnose.gradients needs a target: set target")
        if self.diagnose.gradients and self.target and self.target.drops_checkpoints:
            raise ValueError(
                "diagnose.gradients: measured at every checkpoint of the target, but "
                f"target.keep_checkpoints removes all but the last {self.target.keep_checkpoints}: "
                "leave out one of the two"
            )
        if self.diagnose.gradients and self.trajectories.workers.gpus_per_worker > 1:
            raise ValueError(
                "diagnose.gradients needs trajectories.workers with one GPU at most, got "
                f"gpus_per_worker {self.trajectories.workers.gpus_per_worker:g}"
            )
        if self.trajectories.while_training and self.proxy.max_workers is not None:
            raise ValueError(  # an elastic training would take the CPUs and GPUs of scoring
                "trajectories.while_training needs a fixed number of workers: leave out "
                "proxy.max_workers"
            )
        for name, model in self.diagnose.proxies.items():
            if self.proxy.lora is not None and model.architecture is not None:
                raise ValueError(
                    f"diagnose.proxies.{name}: proxy.lora needs a pretrained model: set name "
                    f"instead of architecture"
                )
        models = [("prompt", self.prompt, "proxy.model", self.proxy.model)]
        models += [
            ("prompt", self.prompt, f"diagnose.proxies.{name}", model)
            for name, model in self.diagnose.proxies.items()
        ]
        if self.target_prompt and self.target:
            models.append(("target_prompt", self.target_prompt, "target.model", self.target.model))
        for field, prompt, place, model in models:
            own = prompt.template == "chat" and prompt.chat_template is None
            if own and model.tokenizer_vocab:
                raise ValueError(
                    f"{field}.template chat needs a tokenizer with a chat template; "
                    f"{place}.tokenizer_vocab trains one without: set {field}.chat_template"
                )
        return self
