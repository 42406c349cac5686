"""The data of a run's page, as plain numbers. Losses are in nats per response token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.analysis.statistics import Seeds

if TYPE_CHECKING:
    from s2l_ray.analysis.alarms import Alarm
    from s2l_ray.analysis.cost import Cost
    from s2l_ray.analysis.laws import Law


class Arm(NamedTuple):
    """One target: trained on one selection with one seed, then evaluated on held-out examples."""

    selector: str
    seed: int
    n_examples: int
    n_steps: int
    loss: float
    loss_by_source: Mapping[str, float]
    n_tokens: int  # of the selection
    error_over_examples: float | None  # standard error of the loss − baseline's, over examples
    others: Mapping[str, float]  # other metrics, by their names in words
    influences: Sequence[float] = ()  # of groups of held-out examples on the loss, if known

    @property
    def seeds(self) -> Seeds:
        """The selection seed and the training seed, which are the same here."""
        return self.seed, self.seed


class Curve(NamedTuple):
    """Training loss of one model: `steps` [P] and `losses` [P].

    `name` is "proxy", or the selector of a target; `seed` may be None.
    """

    name: str
    seed: int | None
    steps: Sequence[float]
    losses: Sequence[float]


class Piece(NamedTuple):
    """A part of an example's text as the proxy was given it."""

    text: str
    is_label: bool


class Example(NamedTuple):
    """One example to show, with its loss at the first and the last checkpoint."""

    place: str  # "file:row"
    source: str
    loss_first: float
    loss_last: float
    pieces: Sequence[Piece]
    chosen: bool


class Labelled(NamedTuple):
    """A tokenized example. tokens: the text of each, and whether it is a label."""

    place: str
    source: str
    tokens: list[tuple[str, bool]]

    @property
    def labels(self) -> int:
        return sum(is_label for _, is_label in self.tokens)

    @property
    def runs(self) -> list[tuple[bool, list[str]]]:
        """Neighbouring tokens that are all labels, or all not."""
        groups = groupby(self.tokens, key=lambda token: token[1])
        return [(is_label, [text for text, _ in tokens]) for is_label, tokens in groups]


class Rejection(NamedTuple):
    """Rows rejected for one reason, with one place ("file:row") to look at."""

    reason: str
    n_rows: int
    place: str = ""


class Timing(NamedTuple):
    """What one stage took in this run; `seconds` is wall clock, None if it was reused."""

    name: str
    seconds: float | None
    throughput: str = ""
    state: str = "run"  # or "reused", "resumed"; a repaired stage: "run, 2 times"
    training: float | None = None  # seconds of the training itself, in this run or an earlier one


class LawBins(NamedTuple):
    """What the bins of a law are: edges between them, or the sources."""

    loss_edges: Sequence[float]
    length_edges: Sequence[float]
    sources: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the page shows. The page leaves out what is None or empty.

    Arrays may be lists or numpy arrays.
    """

    title: str  # name of the configuration
    run_dir: str
    created: str  # date and time, as shown
    selector: str  # of the run's subset
    rule: str  # what the selector chooses, and where the rule comes from
    budget: str  # in words, such as "1,100 examples"
    seed: int
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    hardware: str = ""
    settings_yaml: str = ""  # the resolved configuration
    settings_path: str = ""  # of a file with it, that the commands take
    subset_path: str = ""  # folder of the subset's Parquet files
    exports: Mapping[str, str] = field(default_factory=dict)  # format -> folder
    endpoint: str | None = None  # of the object store that has it
    has_target: bool = False  # configured
    has_heldout: bool = False  # examples to evaluate on are configured

    alarms: Sequence[Alarm] = ()  # of the run's stages

    corpus_by_source: Mapping[str, int]  # source -> examples offered to the selector
    n_duplicates: int = 0  # exact
    duplicates_kept: bool = False
    n_rows: int = 0  # read
    n_rejected: int = 0  # rows
    rejections: Sequence[Rejection] = ()
    rejected_by_file: Sequence[tuple[str, int, int]] = ()  # file, rows, unusable; most first
    passed_over: Sequence[tuple[str, int, str]] = ()  # reason, files, names of the first
    n_held_out: int = 0  # examples kept for evaluation, not in corpus_by_source
    n_unlabelled: int = 0  # examples without a response token after truncation
    n_truncated: int = 0

    subset_by_source: Mapping[str, int] | None = None  # source -> chosen examples

    length_edges: Sequence[float] | None = None  # [H + 1], tokens
    length_corpus: Sequence[int] | None = None  # [H], examples
    length_subset: Sequence[int] | None = None  # [H], examples

    curves: Sequence[Curve] = ()

    steps: Sequence[int] | None = None  # [T], optimizer steps of the proxy's checkpoints
    centers_KT: Sequence[Sequence[float]] | None = None  # [K, T], mean loss of each cluster
    cluster_sizes: Sequence[int] | None = None  # [K], examples
    cluster_chosen: Sequence[int] | None = None  # [K], chosen examples
    loss_quantiles_5T: Sequence[Sequence[float]] | None = None  # [5, T]: 5, 25, 50, 75, 95%
    explained_variance_level: float | None = None  # share 0..1 of the first principal component
    inertia: float | None = None  # of k-means: sum of squared distances
    n_iter: int | None = None  # of k-means
    share_above_quota: float | None = None  # share 0..1 of clusters
    weights: Sequence[str] = ()  # sentences on the weights of a weighted subset
    purpose: Sequence[str] = ()  # sentences on the examples of selection.toward
    near_duplicates: Sequence[str] = ()  # sentences on their groups, and on what copies cost
    adjusted_rand: float | None = None  # index with the clusters of another k-means seed

    law: Law | None = None  # of the selection, over all draws
    law_bins: LawBins | None = None
    law_rows: Sequence[Sequence[str]] = ()  # heads, then the laws of this and other selectors
    laws_alike: Sequence[str] = ()  # pairs of them with subsets that differ like draws

    examples: Sequence[Sequence[Example]] = ()  # [K] lists by cluster id, chosen ones first
    labelled: Sequence[Labelled] = ()  # random examples, their tokens with labels marked
    labels_told: Sequence[str] = ()  # how chats got their labels

    arms: Sequence[Arm] = ()
    left_out: Sequence[str] = ()  # what was not evaluated or not compared, and why

    timings: Sequence[Timing] = ()
    peak_memory_bytes: int | None = None  # of the driver
    cost: Cost | None = None

    @property
    def n_corpus(self) -> int:
        return sum(self.corpus_by_source.values())

    @property
    def n_candidates(self) -> int:
        """The examples that a selector chooses from."""
        return self.n_corpus - self.n_unlabelled

    @property
    def n_subset(self) -> int:
        return sum((self.subset_by_source or {}).values())


def evaluated_sources(data: ReportData) -> list[str]:
    """Return the sources with a held-out loss, the largest in the corpus first."""
    found = {source for arm in data.arms for source in arm.loss_by_source}
    return sorted(found, key=lambda source: (-data.corpus_by_source.get(source, 0), source))
