"""Typed views of manifests: what a stage says about itself, by attribute instead of by string.

A manifest keeps what a stage reports as JSON: `info` for the stage, `stats` for each part. A view
names the keys of one kind of stage and reads them on access: `TokensView(manifest).trainable`.
A missing key raises ValueError with the manifest's folder, unless the view gives it a default.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

from s2l_ray.store.manifest import Manifest

T = TypeVar("T")


class View:
    """A manifest, and the keys of its kind of stage as attributes."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.manifest.folder!r})"

    def has(self, name: str) -> bool:
        """Return whether the stage's info has a key of this name."""
        return name in self.manifest.info


class _Key(Generic[T]):
    """The value of the attribute's own name in the manifest's info."""

    def __init__(self, *default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type[View], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, view: None, owner: type[View]) -> _Key[T]: ...
    @overload
    def __get__(self, view: View, owner: type[View]) -> T: ...
    def __get__(self, view: View | None, owner: type[View]) -> _Key[T] | T:
        return self if view is None else self.read(view.manifest)

    def read(self, manifest: Manifest) -> T:
        return _value(manifest.info, self.name, manifest.folder, self.default)


class _Stats(_Key[list[T]]):
    """A value of each part's stats, in the manifest's order."""

    def __init__(self, name: str, *absent: T) -> None:
        super().__init__()
        self.of, self.absent = name, absent

    def read(self, manifest: Manifest) -> list[T]:
        return [
            _value(part.stats, self.of, manifest.folder, self.absent) for part in manifest.parts
        ]


class _Sum(_Key[int]):
    """The sum of a count over the parts' stats."""

    def read(self, manifest: Manifest) -> int:
        return sum(
            _value(part.stats, self.name, manifest.folder, self.default) for part in manifest.parts
        )


def _value(found: dict[str, Any], name: str, folder: str, default: tuple[Any, ...]) -> Any:
    if name in found:
        return found[name]
    if default:
        return default[0]
    raise ValueError(f"{folder}: its manifest has no {name!r}; it has {', '.join(found) or 'none'}")


def ids_of_part(number: int, count: int) -> tuple[int, int]:
    """Return the range of ids of one of `count` parts, from its first to before its end."""
    return -(-(number << 63) // count), -(-((number + 1) << 63) // count)


class CorpusView(View):
    """A corpus, or another set of examples read by `corpus.ingest`."""

    num_parts = _Key[int]()  # parts that ids are spread over; those without rows are not listed
    rows_read = _Key[int]()
    examples = _Key[int]()  # without the held-out ones
    heldout = _Key[int](0)
    duplicates = _Key[int]()
    rejected = _Key[int]()
    rejected_reasons = _Key[list[tuple[str, int, str]]]()  # reason, rows, "file:row" of the first
    by_source = _Key[dict[str, int]]()
    heldout_by_source = _Key[dict[str, int]]({})
    files = _Key[list[str]]()
    passed_over = _Key[list[tuple[str, int, str]]]([])  # reason, files, names of the first
    files_without_rows = _Key[list[str]]([])
    rejected_by_file = _Key[list[tuple[str, int, int]]]([])  # file, rows, unusable; most first
    unusable_files = _Key[list[tuple[str, int, int, str]]]([])  # file, rows, the first, its reason
    generations = _Key[list[dict[str, Any]]]([])  # of a corpus that grew: see pipeline/growth.py

    def ids_of(self, unit: str) -> tuple[int, int]:
        """Return the range of ids of a part, from its first to before its end."""
        name, _, generation = unit.rpartition("/")[2].partition(".g")
        count = self.num_parts
        if generation:
            count = self.generations[int(generation)]["num_parts"]
        return ids_of_part(int(name.removeprefix("part-")), count)


class NearDuplicatesView(View):
    """Groups of near-duplicates, of two examples or more."""

    num_parts = _Key[int]()
    sizes = _Key[list[tuple[int, int]]]()  # how many examples a group has, and how many such groups

    @property
    def groups(self) -> int:
        return sum(count for _, count in self.sizes)

    @property
    def largest(self) -> int:
        """Examples in the largest group; 0 if there is none."""
        return max((size for size, _ in self.sizes), default=0)

    def left_out(self, most: int) -> int:
        """Return how many examples are left out if a group keeps so many."""
        return sum(count * max(0, size - most) for size, count in self.sizes)

    def ids_of(self, unit: str) -> tuple[int, int]:
        """Return the range of ids of a part, from its first to before its end."""
        return ids_of_part(int(unit.removeprefix("part-")), self.num_parts)


class TokensView(View):
    """Tokenized examples."""

    tokenizer = _Key[str]()  # folder of the tokenizer, below the run directory
    tokenizer_checksum = _Key[str | None](None)  # of its files; None if it is not known
    max_length = _Key[int](0)  # tokens; 0 if it is not known
    trainable = _Sum()  # examples with a label token
    trainable_tokens = _Sum()  # tokens of these examples
    label_tokens = _Sum()
    truncated = _Sum()
    response_lost = _Sum(0)  # truncated examples without a label token
    refused = _Sum(0)  # examples that the chat template has no place for
    trainable_by_part = _Stats[int]("trainable")

    labels = _Key[str]("")  # a sentence on how chats got their labels

    @property
    def weighted(self) -> bool:
        """Whether the examples have training weights."""
        return any("weight" in part.stats for part in self.manifest.parts)

    @property
    def refused_first(self) -> tuple[str, int, str] | None:
        """File, row and reason of the first refused example."""
        return self._first("refused_first")

    @property
    def differs_first(self) -> tuple[str, int, str] | None:
        """File and row of an example whose text the tokenizer's own chat template would render
        differently, and how."""
        return self._first("differs_first")

    def _first(self, name: str) -> tuple[str, int, str] | None:
        for part in self.manifest.parts:
            if part.stats.get(name):
                file, row, told = part.stats[name]
                return file, row, told
        return None


class TrainingView(View):
    """A fine-tuned model, or a resume point of one."""

    step = _Key[int]()  # the last
    workers = _Key[int]()
    checkpoints = _Key[list[int]]()  # steps
    history = _Key[list[tuple[int, float]]]()  # step, training loss
    tokens = _Key[int | None]()  # None: target.train has not told
    padded_tokens = _Key[int | None]()
    seconds = _Key[float]()
    waiting = _Key[float | None]()  # seconds of these spent waiting for batches
    model = _Key[dict[str, str] | None](None)  # name, revision and commit of a hub model
    folders = _Key[list[str]]([])  # of checkpoints that the run was given, by step


class StepsView(View):
    """Losses, signals (`details/`) and trajectories: the checkpoints they come from."""

    steps = _Key[list[int]]()


class ClustersView(View):
    """Clusters of trajectories or of features. Lists have an entry per cluster id."""

    sizes = _Key[list[int]]()
    sources = _Key[list[str | None]]()  # None: the cluster crosses sources
    inertia = _Key[float]()
    n_iter = _Key[int]()
    level_share = _Key[float | None]()  # of the variance, by the loss level; None: nothing varies
    adjusted_rand = _Key[float | None]()  # with another seed; None: not measured
    centers = _Key[str | None](None)  # checksum of centers.arrow
    # Of each later generation of a corpus that grew: examples, far (beyond the 99th percentile of
    # the first generation's distances), by_source (source -> far, all), mean_losses [T].
    drift = _Key[list[dict[str, Any]]]([])


class GroupsView(View):
    """What a selector chooses from: clusters, a ranking, or trajectories (one group).

    sources: of each group, None if it crosses sources. edges: between the bins of the score; None
    if there is no score. ranked: how many examples have a place; None: all.
    """

    sources = _Key[list[str | None]]([None])
    edges = _Key[list[float] | None](None)
    ranked = _Key[int | None](None)


class SelectionView(View):
    """A finished selection."""

    selector = _Key[str]()
    budget = _Key[int | float | str]()
    seed = _Key[int]()
    examples = _Key[int]()
    candidates = _Key[int]()
    tokens = _Key[int]()
    by_source = _Key[dict[str, int]]()
    by_cluster = _Key[list[int] | None]()  # by cluster id; None if it draws from no clusters
    groups_above_quota = _Key[float]()  # share
    toward = _Key[dict[str, Any] | None](None)  # share, examples and by_cluster of the purpose
    weights = _Key[list[float] | None](None)  # in training, by cluster id; None: all examples alike
    effective_examples = _Key[float | None](None)  # (sum of weights)^2 / sum of their squares
    race = _Key[dict[str, Any] | None](None)  # of the selector race: see RaceView

    @property
    def drawn_by(self) -> str:
        """The selector that chose the examples: the winner of a race, or the selector itself."""
        return self.race["winner"] if self.race else self.selector


class RaceView(View):
    """The end of a race between selectors (analysis.race.Race.as_info)."""

    winner = _Key[str]()
    told = _Key[str]()


class PurposeView(View):
    """The purpose's examples assigned to clusters."""

    sizes = _Key[list[int]]()  # by cluster id


class AnswersView(View):
    """Answers that a target generated."""

    of = _Key[int]()  # questions in the set, asked or not
    correct = _Sum()
    no_answer = _Sum()
    cut = _Sum(0)  # answers with less room than max_new_tokens, as the model's positions end
    without_room = _Sum(0)  # of these, with none
    programs_failed_by_part = _Stats[dict[str, int]]("programs_failed", {})  # why -> programs


class TextsView(View):
    """Texts that a target generated, with what their metrics are made of."""

    cut = _Sum(0)  # as of answers
    without_room = _Sum(0)
    bleu_counts_by_part = _Stats[list[int]]("bleu_counts")  # text_metrics.bleu_counts
    rouge_l_by_part = _Stats[float]("rouge_l")  # sums
    bert_score_by_part = _Stats[float | None]("bert_score")  # sums; None: not measured


class LeaksView(View):
    """An evaluation set without the rows that the corpus has too."""

    in_corpus = _Key[int](0)
    note = _Key[str | None](None)
