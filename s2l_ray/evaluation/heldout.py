"""Response loss on held-out examples: of whole responses, and of the answers in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.analysis.examples import in_groups, of_mean_over_tokens
from s2l_ray.analysis.measures import LARGE
from s2l_ray.config import CorpusConfig, EvaluationConfig
from s2l_ray.corpus.ingest import ingest_once
from s2l_ray.corpus.sources import split_of_path
from s2l_ray.errors import Damaged
from s2l_ray.evaluation.leaks import without_corpus
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import CorpusView

NOTHING = (
    "nothing to evaluate on: set corpus.heldout_share (such as 0.05), corpus.heldout_per_source or "
    "evaluation.files"
)


def heldout_examples(
    store: Store, examples: Manifest, config: EvaluationConfig, like: CorpusConfig
) -> dict[str, Manifest]:
    """Return the held-out share of the corpus under "heldout", and each evaluation file by name.

    Leaves out rows of files that are in the corpus too (leaks.py). like: the settings that the
    corpus was read with; the files have the same columns, except a name for the source. Rows
    without a source get the file's name, or NAME (file) if that is a source of the corpus.
    ValueError if there is nothing to evaluate on.
    """
    found, corpus = {}, CorpusView(examples)
    heldout = store.manifest(f"{examples.folder}/heldout")
    if heldout is None and corpus.heldout:
        missing = store.address(examples.folder, "heldout", "manifest.json")
        raise Damaged(f"{missing}: missing", examples.folder)
    if heldout is not None and heldout.rows:
        found["heldout"] = heldout
    files = read_like_corpus(store, examples, config, like, "files")
    found |= without_corpus(store, examples, files, "files")
    if not found:
        raise ValueError(NOTHING)
    return found


def read_like_corpus(
    store: Store, examples: Manifest, config: EvaluationConfig, like: CorpusConfig, kind: str
) -> dict[str, Manifest]:
    """Read each file of evaluation.KIND ("files" or "texts") by name, with the corpus's settings.

    See `heldout_examples` for the columns and sources.
    """
    files, corpus = {}, CorpusView(examples)
    columns = {
        ours: theirs
        for ours, theirs in like.columns.items()
        if theirs is None or ours not in ("source", "topic")
    }
    taken = corpus.by_source.keys() | corpus.heldout_by_source.keys()
    for name, path in getattr(config, kind).items():
        settings = CorpusConfig(
            path=path,
            split=config.split or split_of_path(path, "test"),
            columns=columns,
            roles=like.roles,
            ignore_keys=like.ignore_keys,
            map=like.map,
            max_row_bytes=like.max_row_bytes,
            source=f"{name} (file)" if name in taken else name,  # of rows without one
            duplicates="number",
        )
        try:
            files[name] = ingest_once(store, settings, f"evaluations/corpora/{name}")
        except Damaged:  # of the run directory: it is mended
            raise
        except ValueError as error:
            raise ValueError(f"evaluation.{kind}: {name}: {error}") from error
    return files


def check_marker(store: Store, heldout: dict[str, Manifest], marker: str) -> None:
    """ValueError if no held-out response contains the marker."""
    for examples in heldout.values():
        for part in examples.parts:
            for turns in store.read_part(examples.folder, part, ["turns"])["turns"].to_pylist():
                responses = [turn["text"] for turn in turns if turn["role"] == "assistant"]
                if responses and marker in responses[-1]:
                    return
    count = sum(examples.rows for examples in heldout.values())
    raise ValueError(
        f"evaluation.answer_marker: none of {count:,} held-out responses contains {marker!r}"
    )


def nothing_left(examples: int = 0, marker: str | None = None) -> ValueError:
    """Make the error for held-out examples without a label token, or without one after a marker."""
    if marker is None:
        return ValueError(
            "prompt.max_length: no held-out example has a response token left after truncation"
        )
    return ValueError(
        f"evaluation.answer_marker: none of {examples:,} held-out responses has tokens after "
        f"{marker!r}, once truncated to prompt.max_length"
    )


# For each held-out set, its examples and their losses.
Scores = Sequence[tuple[Manifest, Manifest]]


class HeldOutLosses(NamedTuple):
    """Losses of N held-out examples, [N] each, ordered by set and id."""

    example_id: np.ndarray
    source: np.ndarray
    origin: np.ndarray  # the set, by its place in the scores
    total: np.ndarray  # loss summed over label tokens
    labels: np.ndarray  # number of label tokens

    def by_source(self) -> dict[str, np.ndarray]:
        """Return the rows of each source's examples."""
        return {
            source: np.flatnonzero(self.source == source) for source in sorted(set(self.source))
        }


def read_losses(store: Store, scores: Scores) -> HeldOutLosses:
    """Read the losses of all sets, with the sources of the examples."""
    found = []
    for place, (examples, losses) in enumerate(scores):
        tables, by_unit = [], {part.unit: part for part in examples.parts}
        for part in losses.parts:
            table = store.read_part(losses.folder, part)
            texts = store.read_part(
                examples.folder, by_unit[part.unit.split("/", 1)[1]], ["example_id", "source"]
            )
            at = pc.index_in(table["example_id"], value_set=texts["example_id"])
            tables.append(table.append_column("source", texts["source"].take(at)))
        table = pa.concat_tables(tables).sort_by("example_id")
        labels = table["num_label_tokens"].to_numpy().astype(np.float64)
        total = table["loss"].to_numpy() * labels
        origin = np.full(len(total), place)
        ids, sources = table["example_id"].to_numpy(), table["source"].to_numpy()
        found.append((ids, sources, origin, total, labels))
    return HeldOutLosses(*(np.concatenate(each) for each in zip(*found, strict=True)))


def summarise(losses: HeldOutLosses) -> dict[str, Any]:
    """Average the response loss, in nats per label token.

    Returns `loss` over all label tokens, `by_source` over each source's, `macro` (the mean over
    sources), `label_tokens`, and `examples_by_source`, which counts the examples with a loss.
    """
    total, labels = losses.total, losses.labels
    if not len(total):
        raise nothing_left()
    rows = losses.by_source()
    by_source = {
        source: float(total[mine].sum() / labels[mine].sum()) for source, mine in rows.items()
    }
    return {
        "loss": float(total.sum() / labels.sum()),
        "macro": sum(by_source.values()) / len(by_source),
        "label_tokens": int(labels.sum()),
        "by_source": by_source,
        "examples_by_source": {source: len(mine) for source, mine in rows.items()},
    }


def by_file(losses: HeldOutLosses, origins: Sequence[str]) -> dict[str, float]:
    """Return the loss over the tokens of each of evaluation.files. origins: names of the sets."""
    return {
        origins[place]: float(losses.total[mine].sum() / losses.labels[mine].sum())
        for place, mine in _rows_of_files(losses, origins).items()
    }


def influences(losses: HeldOutLosses, origins: Sequence[str]) -> dict[str, list[float]]:
    """Return how groups of examples influence each measure (analysis.examples), by its key
    (analysis.measures). origins: names of the sets."""
    order = np.argsort(losses.example_id, kind="stable")

    def mean_over(parts: Iterable[np.ndarray]) -> list[float]:
        """Of the mean over parts of the mean over a part's tokens."""
        parts = list(parts)
        found_N = np.zeros(len(order))
        for mine in parts:
            of_part = of_mean_over_tokens(losses.total[mine], losses.labels[mine])
            found_N[mine] = of_part / len(parts)
        return in_groups(found_N, order)

    sources, files = losses.by_source(), _rows_of_files(losses, origins)
    large = [mine for mine in sources.values() if len(mine) >= LARGE]
    found = {"loss": mean_over([np.arange(len(order))])}
    if all(len(mine) > 1 for mine in sources.values()):  # one example has no spread
        found["macro"] = mean_over(sources.values())
    if len(large) > 1:
        found["macro_100"] = mean_over(large)
    if files:
        found["files"] = mean_over(files.values())
        found |= {f"files/{origins[place]}": mean_over([mine]) for place, mine in files.items()}
    return found


def _rows_of_files(losses: HeldOutLosses, origins: Sequence[str]) -> dict[int, np.ndarray]:
    """Return the rows of each file with a loss, by its place in `origins`."""
    found = {
        place: np.flatnonzero(losses.origin == place)
        for place, origin in enumerate(origins)
        if origin != "heldout"
    }
    return {place: mine for place, mine in found.items() if len(mine)}


def summarise_answers(store: Store, scores: Scores, marker: str) -> dict[str, Any]:
    """Average the loss of the label tokens after the marker, as `summarise` does.

    scores: with losses after the marker. Returns answer_loss, answer_macro, answer_by_source,
    answer_label_tokens, answer_left_out, which counts the examples without such a token, and the
    influences on answer_loss.
    """
    examples, scored = (sum(each[i].rows for each in scores) for i in (0, 1))
    if not scored:
        raise nothing_left(examples, marker)
    read = read_losses(store, scores)
    found, order = summarise(read), np.argsort(read.example_id, kind="stable")
    influence = in_groups(of_mean_over_tokens(read.total, read.labels), order)
    return {
        "influences": {"answer_loss": influence},
        "answer_loss": found["loss"],
        "answer_macro": found["macro"],
        "answer_label_tokens": found["label_tokens"],
        "answer_by_source": found["by_source"],
        "answer_left_out": examples - scored,
    }
