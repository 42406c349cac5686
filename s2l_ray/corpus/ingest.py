"""The corpus stage: sources of any shape become examples by id; bad rows are set aside.

Tasks read files, or ranges of them, and divide their rows by part: part = example_id * num_parts
>> 63, so ids rise through the parts in order. Then a task per group of parts writes them. What a
part holds does not depend on how files and parts were grouped.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus import accounts
from s2l_ray.corpus.accounts import Accounts, most_common, unusable_told
from s2l_ray.corpus.dividing import (
    Ranges,
    Reading,
    check_ranges,
    reading_of_dataset,
    reading_of_files,
)
from s2l_ray.corpus.draws import Draws
from s2l_ray.corpus.duplicates import Known, settle
from s2l_ray.corpus.files.source import SourceFile
from s2l_ray.corpus.parsing import digest_of
from s2l_ray.corpus.sources import by_reason, fingerprint_of
from s2l_ray.errors import Damaged
from s2l_ray.execution.connect import connect
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.shuffle import gather, scatter
from s2l_ray.formatting import plural
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import DUPLICATES, EXAMPLES, EXAMPLES_WITH_TOPIC, REJECTED
from s2l_ray.store.views import CorpusView

logger = logging.getLogger(__name__)

MAX_SOURCES = 10_000  # the driver, manifests and reports have a line for each


BESIDE = {"/rejected": REJECTED, "/duplicates": DUPLICATES}  # folders without examples
REASONS = 100  # kinds of faults reported per part; a corpus.map may give any number


def ingest(
    store: Store,
    config: CorpusConfig,
    *,
    folder: str,
    fingerprint: str,
    dataset: ray.data.Dataset | None = None,
    digest: dict[str, int] | None = None,
    seed: int = 42,
    label: str = "corpus",
    only: Sequence[SourceFile] | None = None,
    older: Sequence[Manifest] = (),
    grows: dict[str, Any] | None = None,
) -> Manifest:
    """Write the corpus to `folder`, with `/heldout`, `/rejected` and `/duplicates` below it, and
    commit it.

    Reads `dataset`, or config.path if it is None. A Ray Dataset has no row numbers: row is 0.
    digest: of the dataset, if `digest_of` has computed it. label: for the progress lines. only:
    these files, of those at config.path. older: corpora whose examples, held out or not, are
    dropped as duplicates. grows: kept with the corpus (pipeline.growth).

    ValueError if a source cannot be read, the dataset has another number of rows than before, more
    than config.max_rejected_share of the rows are rejected, one id stands for two contents, there
    are more than MAX_SOURCES sources, or no example is left.
    """
    if finished := store.manifest(folder):
        check_rejected(store, finished, config, may_be_empty=bool(older))
        return finished
    connect()
    if dataset is None:
        reading = reading_of_files(config, seed, only)
        for why, count, names in by_reason(reading.passed):
            logger.info("corpus: passed over %s, %s: %s", plural(count, "file"), why, names)
    else:
        digest = digest or digest_of(dataset, config)
        reading = reading_of_dataset(dataset, digest, config, seed)
    schema = EXAMPLES_WITH_TOPIC if "topic" in config.columns else EXAMPLES
    known = Known.of(store, older)
    found = _write_parts(store, reading, folder, (config.duplicates, schema, known), label)
    info = found.info(reading, config.duplicates)
    if grows is not None:
        info["grows"] = grows
    if dataset is not None:
        info["unusable_files"] = []  # a dataset is no file
    if digest is not None and digest["rows"] != info["rows_read"]:
        raise ValueError(
            f"the dataset had {digest['rows']:,} rows at first and {info['rows_read']:,} when read "
            "again; expected one that is the same each time, such as its materialize() returns"
        )
    store.commit(f"{folder}/rejected", fingerprint, found.parts["/rejected"], info)
    check_rejected(store, Manifest(folder, fingerprint, [], info), config, may_be_empty=bool(older))
    if len(sources := info["by_source"]) > MAX_SOURCES:
        column = config.columns.get("source", "source")
        raise ValueError(
            f"corpus: expected at most {MAX_SOURCES:,} sources, got {len(sources):,} in the column "
            f"{column!r} (the first is {min(sources)!r}). If the column holds something else, "
            "corpus.columns.source: null ignores it, in evaluation files too"
        )
    if dropped := found.parts["/duplicates"]:
        store.commit(f"{folder}/duplicates", fingerprint, dropped, {})
    heldout = {"num_parts": reading.num_parts}
    store.commit(f"{folder}/heldout", fingerprint, found.parts["/heldout"], heldout)
    return store.commit(folder, fingerprint, found.parts[""], info)


def ingest_once(store: Store, config: CorpusConfig, folder: str) -> Manifest:
    """Read a corpus of its own into a folder below `folder`, named by its fingerprint, once."""
    fingerprint, name = fingerprint_of(config), folder.rpartition("/")[2]
    where = f"{folder}/{fingerprint}"
    return ingest(store, config, folder=where, fingerprint=fingerprint, label=name)


def check_rejected(
    store: Store, examples: Manifest, config: CorpusConfig, *, may_be_empty: bool = False
) -> None:
    """Raise ValueError if too many rows are rejected, or if there is no example."""
    corpus, address = CorpusView(examples), store.address(examples.folder, "rejected")
    rejected, read = corpus.rejected, corpus.rows_read
    most = most_common(corpus.rejected_reasons)
    unusable = unusable_told(corpus.unusable_files)
    also = f"{unusable}; " if unusable and len(corpus.files) > 1 else ""
    if rejected > config.max_rejected_share * read:
        raise ValueError(
            f"corpus: {rejected:,} of {read:,} rows ({rejected / read:.1%}) rejected, more than "
            f"corpus.max_rejected_share {config.max_rejected_share:.1%}; most common: {most}; "
            f"{also}rejected rows: {address}"
        )
    if unusable:
        raise ValueError(
            f"corpus: {unusable}. Mend these files or leave them out of corpus.path; rejected "
            f"rows: {address}"
        )
    if not corpus.examples and not may_be_empty:
        raise ValueError(
            f"corpus: no examples in {read:,} rows of {len(corpus.files):,} files "
            f"({rejected:,} rejected, {corpus.heldout:,} held out){': ' + most if most else ''}"
        )


def check_folders(store: Store, examples: Manifest, config: CorpusConfig) -> None:
    """Raise Damaged if a file of the folders below a corpus is missing or cut short."""
    for name in ("heldout", "rejected", "duplicates"):
        folder = f"{examples.folder}/{name}"
        manifest = store.manifest(folder)
        dropped = config.duplicates == "drop" and CorpusView(examples).duplicates
        if manifest is None and (name != "duplicates" or dropped):
            raise Damaged(f"{store.address(folder, 'manifest.json')}: missing", examples.folder)
        if manifest is not None and (fault := store.fault(manifest)):
            raise Damaged(fault, folder)


@dataclass
class _Written:
    """What the tasks have written, summed up on the driver. Keys are folders below the corpus."""

    parts: dict[str, list[Part]] = field(
        default_factory=lambda: {"": [], "/heldout": [], "/rejected": [], "/duplicates": []}
    )
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("duplicates", "", "/heldout")}
    )
    reasons: dict[str, list[Any]] = field(default_factory=dict)  # category -> rows, file, row
    files: Accounts = field(default_factory=dict)

    def add(self, summary: dict[str, Any]) -> None:
        for place, part in summary["parts"].items():
            self.parts[place].append(Part.from_json(part))
        for name, counter in self.counts.items():
            counter.update(summary["counts"].get(name, {}))
        for category, (count, *first) in summary["reasons"].items():
            had = self.reasons.get(category, [0, *first])
            self.reasons[category] = [had[0] + count, *min(had[1:], first)]
        accounts.add(self.files, summary["files"])

    def info(self, reading: Reading, duplicates: str) -> dict[str, Any]:
        """Return the info of the corpus's manifest."""
        rejected = sum(part.rows for part in self.parts["/rejected"])
        examples, heldout, repeated = (
            self.counts[name].total() for name in ("", "/heldout", "duplicates")
        )
        dropped = repeated if duplicates == "drop" else 0
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1][0], item[0]))[:20]
        return {
            "num_parts": reading.num_parts,
            "rows_read": examples + heldout + rejected + dropped,
            "examples": examples,
            "heldout": heldout,
            "duplicates": repeated,
            "rejected": rejected,
            "rejected_reasons": [[name, n, f"{file}:{row}"] for name, (n, file, row) in ordered],
            "by_source": dict(sorted(self.counts[""].items())),
            "heldout_by_source": dict(sorted(self.counts["/heldout"].items())),
            "files": reading.files,
            "passed_over": [list(each) for each in by_reason(reading.passed)],
            **accounts.info_of(
                self.files, [file for file in reading.files if file not in reading.passed]
            ),
        }


def _write_parts(
    store: Store, reading: Reading, folder: str, how: tuple[str, pa.Schema, Known], label: str
) -> _Written:
    """Read all rows, bring them together by part, and write the parts."""
    groups: list[list[Any]] = [[] for _ in range(reading.num_groups)]
    with Progress(f"read {label}", total=len(reading.items), unit=reading.unit) as progress:
        ranges, draws = Ranges(), Draws(reading.heldout_per_source)
        for found, (seen, drawn) in scatter(
            reading.function, reading.items, reading.num_groups, *reading.args
        ):
            for group, tables in zip(groups, found, strict=True):
                group += tables
            ranges += seen
            draws.merge(drawn)
            progress.advance(1)
    check_ranges(ranges)
    written, heldout = _Written(), draws.heldout()
    with Progress(f"write {label}", total=reading.num_parts, unit="parts") as progress:
        for summaries in gather(
            _write_group, groups, store, folder, reading.num_parts, *how, heldout
        ):
            for summary in summaries:
                written.add(summary)
            progress.advance(len(summaries))
    return written


def _write_group(
    group: int,
    tables: Sequence[pa.Table],
    store: Store,
    folder: str,
    num_parts: int,
    *how: Any,
) -> list[dict[str, Any]]:
    """Write the parts of a group. In each table the rows are in order of their parts."""
    parts = [table["part"].to_numpy() for table in tables]
    summaries = []
    for number in np.unique(np.concatenate(parts)):
        spans = [np.searchsorted(part, (number, number + 1)) for part in parts]
        rows = [
            table.slice(first, end - first)
            for table, (first, end) in zip(tables, spans, strict=True)
        ]
        summaries.append(
            _write(pa.concat_tables(rows), int(number), store, folder, num_parts, *how)
        )
    return summaries


def _write(
    table: pa.Table,
    number: int,
    store: Store,
    folder: str,
    num_parts: int,
    duplicates: str,
    schema: pa.Schema,
    known: Known,
    heldout: np.ndarray | None,
) -> dict[str, Any]:
    """Write all rows of one part to its files; return a summary for the driver.

    schema: of the examples. known: the examples of older corpora. heldout: see Draws.
    """
    bad = table.filter(pc.is_null(table["example_id"])).sort_by(
        [("file", "ascending"), ("row", "ascending"), ("raw", "ascending")]
    )
    span = -(-number * 2**63 // num_parts), -(-(number + 1) * 2**63 // num_parts)
    good, repeated = settle(table.filter(pc.is_valid(table["example_id"])), duplicates, span)
    good, before = known.dropped(store, good, span)
    repeated = pa.concat_tables([repeated, before])
    held = good["heldout"] if heldout is None else pc.is_in(good["draw"], pa.array(heldout))
    sides = {"": good.filter(pc.invert(held)), "/heldout": good.filter(held)}
    parts, counts = {}, {"duplicates": {"": repeated.num_rows}}
    beside = {"/rejected": bad} | ({"/duplicates": repeated} if duplicates == "drop" else {})
    for place, side in [*sides.items(), *beside.items()]:
        has = BESIDE.get(place, schema)
        if side.num_rows:
            whole = side.select(has.names).cast(has).combine_chunks()
            part = store.write_part(whole, folder + place, f"part-{number:05d}", suffix="parquet")
            parts[place] = part.to_json()
    for place, side in sides.items():
        counts[place] = dict(Counter(side["source"].to_pylist()))
    reasons: dict[str, list[Any]] = {}
    for category, file, row in zip(
        *(bad[name].to_pylist() for name in ("category", "file", "row")), strict=True
    ):
        reasons.setdefault(category, [0, file, row])[0] += 1
    if len(reasons) > REASONS:
        most = sorted(reasons.items(), key=lambda item: (-item[1][0], item[0]))
        reasons = dict(most[:REASONS])
    files = accounts.accounts_of(table, bad)
    return {"parts": parts, "counts": counts, "reasons": reasons, "files": files}
