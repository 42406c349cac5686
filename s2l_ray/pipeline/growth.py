"""A corpus that grows: generations of files, each read and scored once, and the whole.

The stages of the first generation are those of any run. A later generation has a corpus, tokens,
losses and trajectories of its own, by the tokenizer and the proxy of the first. The stages of the
whole hold no rows: their manifests list the parts of all generations.

Which files belong to which generation is told by the corpora in the run directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from s2l_ray.config import CorpusConfig, RunConfig, fingerprint
from s2l_ray.corpus.accounts import added
from s2l_ray.corpus.files.source import SourceFile
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.sources import fingerprint_of, resolve, shown
from s2l_ray.errors import Damaged
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.pipeline.told import check_corpus
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.checksums import is_whole, marked

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run

WHOLE = "grown"  # the folder of the stages of all generations
BEGUN = "refit.json"  # the files of the first generation, if `refit` has set them
BELOW = ("heldout", "rejected", "duplicates")  # folders of a corpus with manifests of their own

Source = list[Any]  # of a file: name, bytes, stamp


def grown_corpus(config: RunConfig) -> Stage:
    """Declare the corpus of the files that are there, in generations.

    ValueError if a file of an earlier generation is gone or has changed.
    """
    store = Store(config.run_dir, config.storage)
    files = {file.name: file for file in resolve(config.corpus)}
    chain = _chain(store, config, files)
    read = {name for names in chain for name in names}
    if added := [name for name in files if name not in read]:
        chain.append(added)
    groups = [[files[name] for name in names] for names in chain]
    if len(groups) == 1:
        return replace(
            _generation(config, groups, []),
            name="corpus",
            check=partial(check_corpus, config.corpus),
        )
    sizes = [sum(file.bytes for file in group) for group in groups]
    stages = list[Stage]()
    for number in range(len(groups)):
        stages.append(_generation(config, groups[: number + 1], stages))
    return Stage(
        "corpus",
        alone(partial(_join_corpora, stages)),
        inputs=tuple(stages),
        settings=("generations",),
        place=f"{WHOLE}/corpus",
        generations=tuple(stages),
        shares=tuple(size / max(1, sum(sizes)) for size in sizes),
        check=partial(check_corpus, config.corpus),
    )


def begin_again(store: Store, config: CorpusConfig) -> int:
    """Make the files that are there the first generation of the next run; return their number."""
    sources = _sources(resolve(config))
    store.write_json(marked({"files": sources}), BEGUN)
    return len(sources)


def _sources(files: Iterable[SourceFile]) -> list[Source]:
    return [[file.name, file.bytes, file.stamp] for file in files]


def _settings(config: RunConfig) -> str:
    """Identify how files are read."""
    return fingerprint_of(config.corpus, seed=config.seed, files=[])


def _own(config: RunConfig, files: list[SourceFile]) -> str:
    """Return the fingerprint of a first generation."""
    return fingerprint(fingerprint_of(config.corpus, seed=config.seed, files=files))


def _chain(store: Store, config: RunConfig, files: dict[str, SourceFile]) -> list[list[str]]:
    """Return the names of each generation's files; none if the corpus is new."""
    settings, begun = _settings(config), _begun(store)
    there = {source[0]: source for source in _sources(files.values())}
    chains, damages = list[list[list[Source]]](), dict[str, Damaged]()
    later = [f"generations/{number}/corpus" for number in store.names("generations")]
    for place in ("corpus", *later, f"{WHOLE}/corpus"):
        for name in store.names(place):
            try:
                manifest = store.manifest(f"{place}/{name}")
            except Damaged as damage:
                damages[name] = damage
                continue
            grows = manifest.info.get("grows") if manifest else None
            if grows and grows["settings"] == settings:
                chains.append(grows["generations"])
            elif manifest and not grows:  # of before corpus.grow was set
                had = [files[each] for each in manifest.info["files"] if each in files]
                if _own(config, had) == manifest.fingerprint:
                    chains.append([_sources(had)])
    if begun is not None:
        chains = [chain for chain in chains if chain[0] == begun] or [[begun]]
    if whole := [chain for chain in chains if not _changed(chain, there)]:
        best = max(whole, key=lambda chain: (sum(map(len, chain)), -len(chain)))
        return [[source[0] for source in generation] for generation in best]
    if chains:
        gone = _changed(max(chains, key=lambda chain: sum(map(len, chain))), there)
        raise ValueError(
            f"corpus.grow: gone or changed since they were read: {shown(gone)}. Put back what was "
            "there, or train the proxy again on all files as they are with `s2l-ray refit`"
        )
    if damages and _own(config, [*files.values()]) not in damages:
        raise ValueError(
            f"corpus.grow: {next(iter(damages.values()))}, so which files were read before is not "
            "known. Put the file back, or train the proxy again on all files with `s2l-ray refit`"
        )
    return []


def _begun(store: Store) -> list[Source] | None:
    if not store.exists(BEGUN):
        return None
    try:
        found = store.read_json(BEGUN)
    except ValueError:
        found = None
    if not is_whole(found):
        raise ValueError(f"{store.address(BEGUN)}: damaged; `s2l-ray refit` writes it again")
    return list(found["files"])


def _changed(chain: list[list[Source]], there: dict[str, Source]) -> list[str]:
    """Return the files of a chain that are not there as they were."""
    return [source[0] for each in chain for source in each if there.get(source[0]) != source]


def _generation(config: RunConfig, groups: list[list[SourceFile]], older: Sequence[Stage]) -> Stage:
    """Declare the last of these groups of files. older: the generations before it."""
    number, files, before = len(older), groups[-1], tuple(older)
    grows = {"settings": _settings(config), "generations": [*map(_sources, groups)]}

    def make(run: Run, **where: Any) -> Manifest:
        corpus = config.corpus
        if number:  # it may be far smaller than the first
            corpus = corpus.model_copy(update={"num_parts": None})
        return ingest(
            run.store,
            corpus,
            seed=config.seed,
            only=files,
            older=[run.get(each) for each in before],
            grows=grows,
            label=f"generation {number}" if number else "corpus",
            **where,
        )

    return Stage(
        f"generation-{number}/corpus",
        alone(make),
        inputs=before,
        settings=(fingerprint_of(config.corpus, seed=config.seed, files=files),),
        place=f"generations/{number:03d}/corpus" if number else "corpus",
    )


def joined(
    name: str, stages: Sequence[Stage], check: Callable[[Run, Manifest], None] | None = None
) -> Stage:
    """Declare the parts of a stage of each generation as one stage."""
    return Stage(
        name,
        alone(partial(_join, stages)),
        inputs=tuple(stages),
        settings=("generations",),
        place=f"{WHOLE}/{name}",
        check=check,
    )


def _join(stages: Sequence[Stage], run: Run, *, folder: str, fingerprint: str) -> Manifest:
    made = [run.get(stage) for stage in stages]
    info = made[0].info | {"generations": _places(made)}
    return run.store.commit(folder, fingerprint, _parts(made), info)


def _join_corpora(stages: Sequence[Stage], run: Run, *, folder: str, fingerprint: str) -> Manifest:
    store, made = run.store, [run.get(stage) for stage in stages]
    info = added([each.info for each in made]) | {
        "grows": made[-1].info["grows"],
        "generations": _places(made),
    }
    for name in BELOW:
        found = [store.manifest(f"{each.folder}/{name}") for each in made]
        here = [each for each in found if each is not None]
        if here:
            parts = _parts([each or Manifest("", "", []) for each in found])
            store.commit(f"{folder}/{name}", fingerprint, parts, here[0].info)
    return store.commit(folder, fingerprint, _parts(made), info)


def _places(made: Sequence[Manifest]) -> list[dict[str, Any]]:
    return [
        {"folder": each.folder, "num_parts": each.info.get("num_parts", 0), "rows": each.rows}
        for each in made
    ]


def _parts(made: Sequence[Manifest]) -> list[Part]:
    return [
        replace(
            part,
            unit=f"{part.unit}.g{number:03d}" if number else part.unit,
            folder=part.folder or each.folder,
        )
        for number, each in enumerate(made)
        for part in each.parts
    ]
