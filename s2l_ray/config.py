"""The whole run as typed, validated models. Nothing else in the project parses configuration.

Imports neither torch nor ray, so that a typo costs well under a second.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from s2l_ray import plain_yaml

SelectorName = Literal[
    "s2l", "s2l_official", "prune_then_cluster",
    "random", "random_balanced", "random_shares", "random_tokens",
    "loss_strata", "longest", "middle_perplexity", "middle_perplexity_early",
    "high_learnability", "high_learnability_relative",
    "least_confidence", "least_confidence_early", "confidence_curriculum",
    "el2n", "el2n_middle", "el2n_bottom", "grand",
    "facility_location", "k_center", "embedding_clusters",
]  # fmt: skip
BASELINE: SelectorName = "random"  # what selectors are held against
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**32 - 1)]  # NumPy takes 32 bits; seed + 1 is used too
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # stands for a folder's name


# Options of a URI, after its "?", that hold nothing secret.
URI_OPTIONS = (
    "region", "scheme", "endpoint_override", "force_virtual_addressing", "tls_ca_file_path",
    "project_id", "retry_limit_seconds", "enable_tls", "user", "replication",
)  # fmt: skip


def _without_credentials(value: str) -> str:
    scheme, remote, rest = value.partition("://")
    place, _, query = rest.partition("?")
    owner, at, _ = place.partition("/")[0].rpartition("@")
    container = scheme in ("abfs", "abfss") and ":" not in owner  # container@account, no secret
    options = [option.partition("=")[0] for option in query.split("&") if option]
    secret = "@" in query or not set(options) <= set(URI_OPTIONS)
    if remote and (secret or (at and not container)):
        raise ValueError(
            f"wanted a path or URI without credentials in it (after a '?' may stand "
            f"{', '.join(URI_OPTIONS)})"
        )
    return value


Location = Annotated[  # a path or URI
    str, Field(min_length=1, pattern=r"^[^\x00]*$"), AfterValidator(_without_credentials)
]
Share = Annotated[float, Field(ge=0, lt=1)]


def _budget(value: Any) -> Any:
    parse_budget(value)  # before pydantic would take true for 1
    return value


Budget = Annotated[int | float | str, BeforeValidator(_budget)]


class ConfigError(ValueError):
    """A configuration that cannot be run: says the field, what was found and what was wanted."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=False, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain_value(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `yes` as a number would quietly be 1; the others could not be written as JSON."""
        assert info.field_name is not None
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool) and cls.model_fields[info.field_name].annotation is not bool:
                raise ValueError(f"found {value!r}, wanted no truth value")
            if isinstance(item, int) and abs(item) >= 2**63:
                raise ValueError(f"found {_shown(item)}")
            if isinstance(item, str) and plain_yaml.SURROGATE.search(item):
                raise ValueError(f"found {_shown(item)}, wanted Unicode text")
        return value


class CorpusConfig(Section):
    """Where the examples come from and how a row becomes an example."""

    path: Location | Annotated[list[Location], Field(min_length=1)] = Field(
        description="file, glob or folder (local or s3://), several of them, or hf://owner/dataset"
    )
    format: Literal["auto", "jsonl", "parquet"] = "auto"  # of files
    split: str = "train"  # of a Hugging Face dataset
    # Our field -> the column's name; fields left out are detected. source: null, if the column of
    # that name tells none.
    columns: dict[Literal["instruction", "input", "output", "messages", "source"], str | None] = {}
    source: str | None = None  # for rows without a source column; else "default"
    max_rejected_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    duplicates: Literal["drop", "number"] = "drop"
    heldout_share: Share = 0.0  # set aside for evaluation before the proxy sees the corpus
    num_parts: Annotated[int, Field(ge=1, le=10_000)] | None = None  # unless set: about 64 MB each

    @field_validator("columns")
    @classmethod
    def _named(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for field, column in value.items():
            if column is None and field != "source":
                raise ValueError(
                    f"{field}: found null, wanted a column's name; only source has none"
                )
        return value


class PromptConfig(Section):
    """How an example becomes text: a named template or one's own, and where it is cut."""

    template: Literal["alpaca", "radiology", "plain", "chat", "custom"] = "alpaca"
    prompt: str | None = None  # custom: text with {instruction}, used without an input
    prompt_with_input: str | None = None  # custom: text with {instruction} and {input}
    max_length: Annotated[int, Field(ge=2)] = 512

    @model_validator(mode="after")
    def _custom(self) -> PromptConfig:
        if (self.template == "custom") != (self.prompt is not None):
            raise ValueError("prompt.prompt goes with prompt.template: custom, and only with it")
        if self.prompt is not None and "{instruction}" not in self.prompt:
            raise ValueError("prompt.prompt lacks {instruction}")
        if self.prompt_with_input is not None and not (
            "{instruction}" in self.prompt_with_input and "{input}" in self.prompt_with_input
        ):
            raise ValueError("prompt.prompt_with_input lacks {instruction} or {input}")
        return self


class ModelConfig(Section):
    """A causal language model: a hub name or folder, or an architecture to start from scratch."""

    name: str | None = None  # hub name or folder in Hugging Face format
    revision: str | None = None
    architecture: dict[str, Any] | None = None  # from scratch: model_type and its config's fields
    tokenizer_vocab: Annotated[int, Field(ge=300)] | None = None  # train a BPE on the corpus
    tokenizer: str | None = None  # from scratch with an existing tokenizer: hub name or folder
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _one_way(self) -> ModelConfig:
        if (self.name is None) == (self.architecture is None):
            raise ValueError("give either name (pretrained) or architecture (from scratch)")
        if self.architecture is not None:
            if "model_type" not in self.architecture:
                raise ValueError("architecture lacks model_type, such as gpt_neox or llama")
            if (self.tokenizer is None) == (self.tokenizer_vocab is None):
                raise ValueError("a model from scratch needs tokenizer or else tokenizer_vocab")
        elif self.tokenizer is not None or self.tokenizer_vocab is not None:
            raise ValueError("a pretrained model brings its own tokenizer")
        return self


class WorkersConfig(Section):
    """Ray resources of a stage: how many workers or actors, and what each asks for."""

    num_workers: Positive = 1
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    accelerator_type: str | None = None


class TrainingConfig(Section):
    """One fine-tuning job. `zero_stage: null` is DDP, 0 to 3 is DeepSpeed ZeRO."""

    model: ModelConfig
    epochs: Annotated[float, Field(gt=0)] = 3
    max_steps: Positive | None = None  # instead of epochs
    global_batch_size: Positive = 128
    micro_batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup_share: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    offload_optimizer: bool = False  # DeepSpeed: optimizer state to CPU memory; slow, untried
    gradient_checkpointing: bool = False
    num_checkpoints: Positive | None = None  # evenly spaced, the last at the end
    checkpoint_every: Positive | None = None  # or every n steps
    resume_every: Positive = 500  # steps between resume points beside the checkpoints
    max_failures: Annotated[int, Field(ge=-1)] = 3  # in a row, without a new resume point; -1: any
    workers: WorkersConfig = WorkersConfig()
    max_workers: Positive | None = None  # DDP takes up to so many where the cluster has them

    @model_validator(mode="after")
    def _fits(self) -> TrainingConfig:
        if self.max_workers is not None:
            if self.zero_stage is not None:
                raise ValueError("max_workers goes with DDP; DeepSpeed keeps its number of workers")
            if not self.workers.num_workers <= self.max_workers <= self.global_batch_size:
                raise ValueError(
                    f"max_workers {self.max_workers} must be between workers.num_workers "
                    f"{self.workers.num_workers} and global_batch_size {self.global_batch_size}"
                )
        if self.num_checkpoints is not None and self.checkpoint_every is not None:
            raise ValueError("give num_checkpoints or checkpoint_every, not both")
        share, rest = divmod(self.global_batch_size, self.workers.num_workers)
        if rest:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} must be a multiple of "
                f"workers.num_workers {self.workers.num_workers}"
            )
        if share % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size / num_workers = {share} must be a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.workers.gpus_per_worker not in (0, 1):
            raise ValueError(
                f"workers.gpus_per_worker is {self.workers.gpus_per_worker:g}: a worker of a "
                "training has one GPU or none; for more GPUs take more workers"
            )
        if self.zero_stage == 0 and self.model.dtype == "bfloat16":
            raise ValueError(  # there DeepSpeed's optimizer is another, without fp32 master weights
                "zero_stage 0 goes with dtype float32; for bfloat16 leave zero_stage out (DDP), or "
                "set 1, 2 or 3"
            )
        if (
            self.zero_stage == 1
            and self.model.dtype == "bfloat16"
            and share > self.micro_batch_size
        ):
            raise ValueError(  # stages 2 and 3 sum them in fp32, as DDP does
                f"zero_stage 1 would sum the gradients of {share // self.micro_batch_size} "
                f"micro-batches in bfloat16: raise micro_batch_size to {share}, or set 2 or 3"
            )
        if self.offload_optimizer and self.zero_stage in (None, 0):
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self


class TrajectoriesConfig(Section):
    """Scoring: the loss of every example at every checkpoint. dtype, tokens_per_batch and workers
    are those of the evaluation's losses and answers too, workers of diagnose.gradients."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens_per_batch: Positive | None = None  # padded, in a forward pass; 8192 on GPU, 2048 on CPU
    while_training: bool = False  # score a checkpoint as soon as it exists, where there is room
    # Stop once two more checkpoints each leave the clusters at this adjusted Rand index or above.
    stop_when_stable: Annotated[float, Field(gt=0, lt=1)] | None = None
    workers: WorkersConfig = WorkersConfig()  # num_workers: actors at the start
    max_workers: Positive | None = None  # the actor pool may grow to this

    @model_validator(mode="after")
    def _one_after_the_other(self) -> TrajectoriesConfig:
        if self.while_training and self.stop_when_stable is not None:
            raise ValueError("give while_training or stop_when_stable, not both")
        if self.max_workers is not None and self.max_workers < self.workers.num_workers:
            raise ValueError(
                f"max_workers {self.max_workers} is less than workers.num_workers "
                f"{self.workers.num_workers}, with which the pool begins"
            )
        if self.workers.gpus_per_worker > 1:
            raise ValueError(
                f"workers.gpus_per_worker is {self.workers.gpus_per_worker:g}: a scoring actor "
                "uses one GPU, or a share of one; for more GPUs take more workers"
            )
        return self


class ClustersConfig(Section):
    """k-means over trajectories (kmeans.KMeans: scikit-learn's names)."""

    n_clusters: Positive = 100
    max_iter: Positive = 300
    tol: Annotated[float, Field(ge=0)] = 1e-4  # how far centers move, or what the inertia loses
    random_state: Seed = 42
    num_actors: Positive | None = None  # unless set: one per CPU of the cluster
    stability: bool = True  # cluster once more with another seed and report the agreement


class SelectionConfig(Section):
    """Which examples, how many, and how they come out."""

    selector: SelectorName = "s2l"
    budget: Budget = 0.11
    seed: Seed = 0
    # Whose source shares random_shares has, and whose tokens random_tokens.
    like: SelectorName = "s2l"
    export: list[Literal["alpaca", "prompt_response", "messages"]] = []  # JSONL beside Parquet

    @model_validator(mode="after")
    def _like_another(self) -> SelectionConfig:
        if self.like in ("random_shares", "random_tokens"):
            raise ValueError(f"like: {self.like} is itself like another, wanted another selector")
        return self


class EvaluationConfig(Section):
    """Held-out response loss, exact match of answers, and the comparison that tells whether
    selection helped."""

    # name -> a file with the corpus's columns (but the source), beside the held-out share
    files: dict[FileName, Location] = {}
    split: str = "test"  # of files and answers: of hf://, and of saved datasets of several splits
    answer_marker: Annotated[str, Field(min_length=1)] | None = None  # loss after it alone, as well
    answers: dict[FileName, Location] = {}  # name -> a file of questions with answers: exact match
    answers_at_most: Positive | None = None  # questions of each set
    max_new_tokens: Positive = 256  # of a generated answer
    baselines: list[SelectorName] = [BASELINE]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1]
    targets_at_once: Positive = 1  # trained side by side, each with its workers; more wait

    @field_validator("seeds", "baselines")
    @classmethod
    def _once(cls, value: list) -> list:
        return _no_entry_twice(value)

    @field_validator("baselines")
    @classmethod
    def _with_baseline(cls, value: list) -> list:
        return _with_random(value)

    @model_validator(mode="after")
    def _names_apart(self) -> EvaluationConfig:
        if "heldout" in self.files:
            raise ValueError("files: the name 'heldout' is that of corpus.heldout_share")
        for name in self.answers:
            if name in self.files or name == "heldout":
                raise ValueError(f"answers: the name {name!r} is that of held-out examples")
        return self


class CompareConfig(Section):
    """jobs/compare.py: selectors x budgets x seeds, each a target trained and evaluated."""

    selectors: list[SelectorName] = ["s2l", "random_balanced", "loss_strata", "random"]
    budgets: Annotated[list[Budget], Field(min_length=1)] = [0.11]
    # What is equal to random's at a budget: examples, their tokens, or the tokens trained on.
    match: Annotated[list[Literal["examples", "tokens", "compute"]], Field(min_length=1)] = [
        "examples"
    ]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2, 3, 4]  # a proxy each
    also: list[SelectorName] = []  # compared with the first also_seeds seeds alone
    also_seeds: Positive = 2
    # Targets on each subset, each with initial weights (from scratch) and an order of its own.
    trainings: Positive = 1
    full: list[Literal["compute", "epochs"]] = ["compute"]  # the whole corpus beside the subsets
    difference: Annotated[float, Field(gt=0)] | None = None  # nats: how many runs would show it?

    def selectors_with(self, number: int) -> list[SelectorName]:
        """Those compared with the seed at the place `number` of seeds, from 0."""
        return self.selectors + (self.also if number < self.also_seeds else [])

    @field_validator("selectors", "also", "budgets", "match", "seeds", "full")
    @classmethod
    def _once(cls, value: list) -> list:
        return _no_entry_twice(value)

    @model_validator(mode="after")
    def _comparable(self) -> CompareConfig:
        if both := sorted(set(self.selectors) & set(self.also)):
            raise ValueError(f"also: {', '.join(both)} is among selectors already")
        if "random_tokens" in self.selectors + self.also and "examples" not in self.match:
            raise ValueError(
                f"found random_tokens, but match is {self.match}: it has the tokens that another "
                "selection has at equal examples, and is compared there; add examples to match"
            )
        return self

    @field_validator("selectors")
    @classmethod
    def _with_baseline(cls, value: list) -> list:
        return _with_random(value)


class DiagnoseConfig(Section):
    """jobs/diagnose.py: the run's S2L selection beside those of variants of the run."""

    seeds: list[Seed] | None = None  # of other proxies; unless set: the two after the run's own
    checkpoints: list[Annotated[int, Field(ge=2)]] = [3, 6]  # evenly spaced among those scored
    n_clusters: list[Positive] | None = None  # unless set: half as many and twice as many
    proxies: dict[FileName, ModelConfig] = {}  # others, trained with the proxy's settings
    # Of a target, on clusters and on the baselines' subsets; for small targets: the driver holds 8
    # bytes a weight for each subset, 5 of a selector, 10 of one that draws from clusters.
    gradients: bool = False

    @field_validator("seeds", "checkpoints", "n_clusters")
    @classmethod
    def _once(cls, value: list | None) -> list | None:
        return value and _no_entry_twice(value)


class StorageConfig(Section):
    """How the object store of an s3:// run_dir or corpus is reached (addressing is the run_dir's).

    Credentials are no setting: they come from the standard chain of the AWS libraries alone.
    """

    endpoint: str | None = None  # http(s)://host:port; unset: AWS, or AWS_ENDPOINT_URL
    region: str | None = None  # unset: AWS_DEFAULT_REGION, or the profile's
    addressing: Literal["auto", "path", "virtual"] = "auto"  # of the bucket in URLs
    # when_required for stores that refuse or keep the checksums that clients add by themselves
    checksums: Literal["when_supported", "when_required"] = "when_supported"
    encryption: Literal["AES256", "aws:kms"] | None = None  # unset: the bucket's own
    kms_key: str | None = None
    lease_seconds: Annotated[int, Field(ge=3)] = 60  # a run that shows no life so long is dead

    def environment(self) -> dict[str, str]:
        """The same for libraries that ask the environment (pyarrow, where it reads a corpus)."""
        found = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": self.region}
        if self.checksums == "when_required":
            found["AWS_REQUEST_CHECKSUM_CALCULATION"] = self.checksums
        return {name: value for name, value in found.items() if value is not None}

    @model_validator(mode="after")
    def _sound(self) -> StorageConfig:
        if self.endpoint is not None and not re.fullmatch(r"https?://[^/@\s]+/?", self.endpoint):
            raise ValueError("endpoint: wanted http(s)://host or http(s)://host:port, no more")
        if self.kms_key is not None and self.encryption != "aws:kms":
            raise ValueError("kms_key goes with encryption: aws:kms")
        return self


class ReportConfig(Section):
    examples: bool = True  # show corpus text in the report
    examples_per_cluster: Annotated[int, Field(ge=1, le=50)] = 4


class RunConfig(Section):
    """A run: `python jobs/pipeline.py CONFIG.yaml`."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "run"
    run_dir: Location
    seed: Seed = 42
    corpus: CorpusConfig
    prompt: PromptConfig = PromptConfig()
    proxy: TrainingConfig
    trajectories: TrajectoriesConfig = TrajectoriesConfig()
    clusters: ClustersConfig = ClustersConfig()
    selection: SelectionConfig = SelectionConfig()
    target: TrainingConfig | None = None
    target_prompt: PromptConfig | None = None  # unless set: the same as prompt
    evaluation: EvaluationConfig = EvaluationConfig()
    compare: CompareConfig = CompareConfig()
    diagnose: DiagnoseConfig = DiagnoseConfig()
    report: ReportConfig = ReportConfig()
    storage: StorageConfig = StorageConfig()

    @field_validator("run_dir")
    @classmethod
    def _place(cls, value: str) -> str:
        if "://" in value and not re.fullmatch(r"s3://[^/@:?#\s]+(/[^@?#]*)?", value):
            raise ValueError(
                "wanted a local path or s3://bucket/prefix, without credentials or options in it"
            )
        return value

    @model_validator(mode="after")
    def _whole(self) -> RunConfig:
        if self.proxy.num_checkpoints is None and self.proxy.checkpoint_every is None:
            raise ValueError("proxy needs num_checkpoints or checkpoint_every (at least 2 points)")
        if self.proxy.num_checkpoints is not None and self.proxy.num_checkpoints < 2:
            raise ValueError("proxy.num_checkpoints must be 2 or more: a trajectory has 2 points")
        if self.target and self.target.max_steps and "epochs" in self.compare.full:
            raise ValueError(
                "compare.full: epochs is the whole corpus for as many epochs as a subset, and "
                "target.max_steps gives both as many steps: leave out one of the two"
            )
        if self.diagnose.gradients and self.target is None:
            raise ValueError("diagnose.gradients are those of a target: target is missing")
        if self.trajectories.while_training and self.proxy.max_workers is not None:
            raise ValueError(  # an elastic training would reach for what scoring is at work on
                "trajectories.while_training is for a proxy of fixed size: leave out "
                "proxy.max_workers"
            )
        models = [("prompt", self.prompt, "proxy.model", self.proxy.model)]
        models += [
            ("prompt", self.prompt, f"diagnose.proxies.{name}", model)
            for name, model in self.diagnose.proxies.items()
        ]
        if self.target_prompt and self.target:
            models.append(("target_prompt", self.target_prompt, "target.model", self.target.model))
        for field, prompt, place, model in models:
            if prompt.template == "chat" and model.tokenizer_vocab:
                raise ValueError(
                    f"{field}.template chat needs a tokenizer with a chat template, and "
                    f"{place}.tokenizer_vocab trains one without"
                )
        return self


def _no_entry_twice(value: list) -> list:
    if len(set(value)) != len(value):
        raise ValueError(f"has an entry twice: {value}")
    return value


def _with_random(value: list) -> list:
    if BASELINE not in value:
        raise ValueError(f"found {value}, wanted {BASELINE} among them: others are held against it")
    return value


def parse_budget(value: int | float | str) -> tuple[str, float]:
    """A budget as ("examples", n), ("share", 0 < s <= 1) or ("tokens", n).

    Strings: "500", "11%", "2M tokens", "1.5B tokens". Raises ValueError on anything else.
    """
    wanted = 'a count (1000), a share (0.11 or "11%") or tokens ("2M tokens")'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{_shown(value)}: wanted {wanted}")
    if isinstance(value, str):
        text = value.strip()
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGB]?)\s*tokens", text):
            scale = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}[match[2]]
            kind, number = "tokens", (float(match[1]) * scale + 0.5) // 1  # inf becomes NaN
        elif match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text):
            kind, number = "share", float(match[1]) / 100
        elif re.fullmatch(r"\d+", text):
            kind, number = "examples", float(text)
        else:
            raise ValueError(f"{_shown(value)}: wanted {wanted}")
    else:
        kind = "examples" if isinstance(value, int) else "share"
        number = float(value) if abs(value) < 2**63 else math.inf
    if not 0 < number < 2**63 or (kind == "share" and number > 1):
        raise ValueError(
            f"{_shown(value)}: wanted {wanted}, more than 0, within 64 bits, a share at most 1"
        )
    return kind, number


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read one YAML file, apply `key.path=value` overrides (values are YAML), validate.

    Raises ConfigError with every fault found, a line each.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        data = plain_yaml.parse(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: wanted a mapping of settings, found {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    return validate(data, origin=str(path))


def validate(data: dict[str, Any], *, origin: str = "config") -> RunConfig:
    """The mapping as a RunConfig; ConfigError names field, what was found and what was wanted."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        lines = [_explain(fault) for fault in error.errors()]
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


def fingerprint(*parts: Any) -> str:
    """16 hex digits over the JSON form of the parts (sections of the config, strings, numbers)."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = names = key.strip().split(".")
    if not equals or not all(names) or len(names) > plain_yaml.MAX_DEPTH:
        raise ConfigError(f"override {override!r}: wanted key.path=value")
    node = data
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {name} is not a section")
    try:
        node[last] = plain_yaml.parse(value)
    except ValueError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from None


def _section_at(location: tuple[int | str, ...]) -> type[Section] | None:
    """The config class whose fields the location's last name should be one of."""
    section: type[Section] | None = RunConfig
    own_name = False  # of the user's, for an entry of a mapping of sections
    for name in location:
        if own_name:
            own_name = False
            continue
        if section is None or str(name) not in section.model_fields:
            return None
        annotation = section.model_fields[str(name)].annotation
        own_name = get_origin(annotation) is dict
        choices = [annotation, *get_args(annotation)]
        section = next((c for c in choices if isinstance(c, type) and issubclass(c, Section)), None)
    return section


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int) and abs(value) >= 2**63:  # of which Python may refuse to show digits
        return "an integer beyond 64 bits"
    text = re.sub(r"(\w://)[^/]*@", r"\1***@", repr(value))  # credentials
    text = re.sub(r"(\w://[^?'\"]*\?)[^'\"]*", r"\1***", text)
    return text if len(text) <= 80 else text[:77] + "..."


def _explain(fault: Any) -> str:
    location = fault["loc"]
    # pydantic names the choices of a union too: corpus.path.list[str].0
    choice = re.compile(r"^(list|function-after)\[|\bstr$")
    names = [str(part) for part in location if not choice.search(str(part))]
    field = ".".join(names) or "the configuration"
    found = fault.get("input")
    shown = _shown(found)
    if fault["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        valid = sorted(section.model_fields) if section else []
        near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
        hint = f"; nearest valid name: {near[0]}" if near else f"; valid names: {', '.join(valid)}"
        return f"{field}: unknown key (found {shown}){hint}"
    if fault["type"] == "missing":
        return f"{field}: missing, a value is wanted"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{field}: {message}"
    if fault["type"] == "literal_error" and isinstance(found, str):
        valid = re.findall(r"'([^']*)'", message)
        near = difflib.get_close_matches(found, valid, n=1, cutoff=0.4)
        message += f"; nearest valid name: {near[0]}" if near else ""
    return f"{field}: found {shown}, wanted: {message}"
