"""Sources in any common shape -> the one example schema, by id; bad rows set aside with a reason.

A Ray Data task reads each file as a stream; Ray Data then shuffles the rows to their parts
(part = example_id * num_parts >> 63, so that parts in order are ids in order).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.identity import hash63
from s2l_ray.corpus.parsing import settle, tabulate
from s2l_ray.corpus.sources import MIB, SourceFile, fingerprint_of, records, resolve
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import rows_of
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, REJECTED
from s2l_ray.store.views import CorpusView

PART_BYTES = 64 * MIB


MAX_SOURCES = 10_000  # the driver, manifests and reports have a line for each


def ingest(
    store: Store,
    config: CorpusConfig,
    *,
    folder: str,
    fingerprint: str,
    dataset: ray.data.Dataset | None = None,
    digest: dict[str, int] | None = None,
    seed: int = 42,
) -> Manifest:
    """Write the corpus to `folder`, with `/heldout` and `/rejected` below it, and commit it.

    Reads `dataset` (a Ray Dataset has no row numbers: row is 0; digest: what `digest_of` found in
    it) or else config.path. ValueError for a dataset that has another number of rows than before,
    a source that cannot be read, a share of rejected rows above config.max_rejected_share, one id
    for two contents, more sources than MAX_SOURCES, or a corpus without examples.
    """
    if finished := store.manifest(folder):
        check_rejected(store, finished, config)
        return finished
    read = {"config": config, "seed": seed}
    if dataset is not None:
        names = ["dataset"]
        digest = digest or digest_of(dataset, config)
        num_parts = config.num_parts or _num_parts(digest["bytes"])
        parsed = dataset.map_batches(
            _parse_rows,
            batch_format="pyarrow",
            fn_kwargs=read | {"num_parts": num_parts, "names": dataset.columns() or []},
        )
        partitions = num_parts
    else:
        files = resolve(config)
        names = list(dict.fromkeys(file.name for file in files))
        total = sum(file.bytes for file in files)
        num_parts = config.num_parts or _num_parts(total)
        items = [{"file": json.dumps(asdict(file))} for file in files]
        parsed = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _parse_file,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs=read | {"num_parts": num_parts},
        )
        partitions = -(-total // (2 * PART_BYTES))
    cpus = int(ray.cluster_resources().get("CPU", 1))
    written = parsed.groupby("part", num_partitions=min(num_parts, max(cpus, partitions)))
    summaries = written.map_groups(
        _write, batch_format="pyarrow", fn_args=(store, folder, num_parts, config.duplicates)
    )
    parts: dict[str, list[Part]] = {"": [], "/heldout": [], "/rejected": []}
    counts = {name: Counter[str]() for name in ("duplicates", "", "/heldout")}
    reasons: dict[str, list[Any]] = {}  # category -> [count, first file, its row]
    with Progress("corpus", total=num_parts, unit="parts") as progress:
        for row in rows_of(summaries):
            summary = json.loads(row["summary"])
            for place, part in summary["parts"].items():
                parts[place].append(Part.from_json(part))
            for name, counter in counts.items():
                counter.update(summary["counts"].get(name, {}))
            for category, (count, *first) in summary["reasons"].items():
                had = reasons.get(category, [0, *first])
                reasons[category] = [had[0] + count, *min(had[1:], first)]
            progress.advance(1)
    rejected = sum(part.rows for part in parts["/rejected"])
    examples, heldout, dropped = (counts[n].total() for n in ("", "/heldout", "duplicates"))
    gone = dropped if config.duplicates == "drop" else 0
    ordered = sorted(reasons.items(), key=lambda item: (-item[1][0], item[0]))[:20]
    info = {
        "num_parts": num_parts,
        "rows_read": examples + heldout + rejected + gone,
        "examples": examples,
        "heldout": heldout,
        "duplicates": dropped,
        "rejected": rejected,
        "rejected_reasons": [[name, n, f"{file}:{row}"] for name, (n, file, row) in ordered],
        "by_source": dict(sorted(counts[""].items())),
        "heldout_by_source": dict(sorted(counts["/heldout"].items())),
        "files": names,
    }
    if digest is not None and digest["rows"] != info["rows_read"]:
        raise ValueError(
            f"the dataset had {digest['rows']:,} rows, and {info['rows_read']:,} when it was read "
            "again: wanted one that is the same each time, as after its materialize()"
        )
    store.commit(f"{folder}/rejected", fingerprint, parts["/rejected"], info)
    check_rejected(store, Manifest(folder, fingerprint, [], info), config)
    if len(sources := sorted(counts[""])) > MAX_SOURCES:
        column = config.columns.get("source", "source")
        raise ValueError(
            f"corpus: {len(sources):,} sources in the column {column!r} (the first is "
            f"{sources[0]!r}), wanted at most {MAX_SOURCES:,}; if that column tells none, "
            f"corpus.columns.source: null leaves it out, in evaluation files too"
        )
    store.commit(f"{folder}/heldout", fingerprint, parts["/heldout"], {"num_parts": num_parts})
    return store.commit(folder, fingerprint, parts[""], info)


def ingest_once(store: Store, config: CorpusConfig, folder: str) -> Manifest:
    """A corpus of its own below `folder`, by its fingerprint: as found there, or read now."""
    mark = fingerprint_of(config)
    return ingest(store, config, folder=f"{folder}/{mark}", fingerprint=mark)


def read_examples(store: Store, manifest: Manifest) -> ray.data.Dataset:
    """The rows of a manifest's parts, read lazily, one task and block a part."""
    items = [{"part": json.dumps(part.to_json())} for part in manifest.parts]
    return ray.data.from_items(items, override_num_blocks=max(1, len(items))).map_batches(
        _read_part, batch_size=1, batch_format="pyarrow", fn_args=(store, manifest.folder)
    )


# -- reading, in Ray tasks


def _parse_file(batch: pa.Table, **settings: Any) -> Iterator[pa.Table]:
    for text in batch["file"].to_pylist():
        file = SourceFile(**json.loads(text))
        found = records(file, settings["config"].split)
        yield from tabulate(found, file.name, **settings)


def _parse_rows(batch: pa.Table, **settings: Any) -> Iterator[pa.Table]:
    yield from tabulate(((0, None, row) for row in batch.to_pylist()), "dataset", **settings)


def digest_of(dataset: ray.data.Dataset, config: CorpusConfig) -> dict[str, int]:
    """Of a Ray Dataset's rows in any order: count, sum of ids, bytes of text. Reads it once."""
    digests = dataset.map_batches(
        _digest_rows,
        batch_format="pyarrow",
        fn_kwargs={"config": config, "names": dataset.columns() or []},
    )
    found = list(rows_of(digests))
    total = {name: sum(int(row[name]) for row in found) for name in ("rows", "ids", "bytes")}
    return total | {"ids": total["ids"] % 2**63}


def _digest_rows(batch: pa.Table, config: CorpusConfig, names: list[str]) -> Iterator[pa.Table]:
    for table in _parse_rows(batch, config=config, names=names, seed=0, num_parts=1):
        ids = zip(table["example_id"].to_pylist(), table["raw"].to_pylist(), strict=True)
        total = sum(hash63(raw.encode()) if raw else known for known, raw in ids)
        texts = pc.struct_field(pc.list_flatten(table["turns"]), "text")
        size = sum(pc.sum(pc.binary_length(t)).as_py() or 0 for t in (texts, table["raw"]))
        yield pa.table({"rows": [table.num_rows], "ids": [total % 2**63], "bytes": [size]})


# -- writing


def _write(table: pa.Table, store: Store, folder: str, num_parts: int, duplicates: str) -> pa.Table:
    """All rows of one part, to its files; returns what the driver is to know."""
    if not table.num_rows:
        return pa.table({"summary": pa.array([], pa.string())})
    number = table["part"][0].as_py()
    bad = table.filter(pc.is_null(table["example_id"])).sort_by(
        [("file", "ascending"), ("row", "ascending"), ("raw", "ascending")]
    )
    span = -(-number * 2**63 // num_parts), -(-(number + 1) * 2**63 // num_parts)
    good, again = settle(table.filter(pc.is_valid(table["example_id"])), duplicates, span)
    sides = {
        "": good.filter(pc.invert(good["heldout"])),
        "/heldout": good.filter(good["heldout"]),
    }
    parts, counts = {}, {"duplicates": {"": again}}
    for place, side in [*sides.items(), ("/rejected", bad)]:
        schema = REJECTED if place == "/rejected" else EXAMPLES
        if side.num_rows:
            whole = side.select(schema.names).cast(schema).combine_chunks()
            part = store.write_part(whole, folder + place, f"part-{number:05d}", suffix="parquet")
            parts[place] = part.to_json()
    for place, side in sides.items():
        counts[place] = dict(Counter(side["source"].to_pylist()))
    reasons: dict[str, list[Any]] = {}
    for category, file, row in zip(
        *(bad[name].to_pylist() for name in ("category", "file", "row")), strict=True
    ):
        reasons.setdefault(category, [0, file, row])[0] += 1
    summary = {"parts": parts, "counts": counts, "reasons": reasons}
    return pa.table({"summary": [json.dumps(summary)]})


def _read_part(batch: pa.Table, store: Store, folder: str) -> Iterator[pa.Table]:
    for text in batch["part"].to_pylist():
        yield store.read_part(folder, Part.from_json(json.loads(text)))


# -- on the driver


def _num_parts(total: int) -> int:
    """Parts of about 64 MB; smaller corpora have up to 32, so that scoring has units to spread."""
    return min(10_000, max(1, -(-total // PART_BYTES), min(32, -(-total // 500 // 500))))


def check_rejected(store: Store, examples: Manifest, config: CorpusConfig) -> None:
    """ValueError for more rejected rows than config.max_rejected_share, or no examples."""
    corpus, address = CorpusView(examples), store.address(examples.folder, "rejected")
    rejected, read = corpus.rejected, corpus.rows_read
    most = "; ".join(
        f"{name} ({count:,}; first at {place})"
        for name, count, place in corpus.rejected_reasons[:3]
    )
    if rejected > config.max_rejected_share * read:
        raise ValueError(
            f"corpus: {rejected:,} of {read:,} rows ({rejected / read:.1%}) rejected, more than "
            f"corpus.max_rejected_share {config.max_rejected_share:.1%}; most common: {most}; "
            f"rejected rows: {address}"
        )
    if not corpus.examples:
        raise ValueError(
            f"corpus: no examples in {read:,} rows of {len(corpus.files):,} files "
            f"({rejected:,} rejected, {corpus.heldout:,} held out){': ' + most if most else ''}"
        )
