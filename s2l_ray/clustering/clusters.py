"""The clusters stage: k-means over trajectories, the cluster of every example, and diagnostics.

N examples, T checkpoints, K clusters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from s2l_ray.clustering.nearest import assign
from s2l_ray.clustering.reading import Trajectories
from s2l_ray.config import ClustersConfig
from s2l_ray.errors import Damaged, TooFew
from s2l_ray.execution.parts import StageParts, make_parts, units_of
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import plain_errors
from s2l_ray.scoring.trajectories import (
    losses_array,
    mean_losses,
    sample_trajectories,
    sampled,
)
from s2l_ray.store import Manifest, Part, Store, schemas
from s2l_ray.store.checksums import checksum_of
from s2l_ray.store.views import ClustersView

if TYPE_CHECKING:
    from s2l_ray.clustering.kmeans import KMeans

FAR = 0.99  # quantile of the distances to the centers beyond which an example counts as far

State = tuple[int, int, float, np.ndarray]  # of k-means, see KMeans.fit


def cluster(
    store: Store,
    trajectories: Manifest,
    config: ClustersConfig,
    *,
    by_source: bool,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Cluster all trajectories together, or those of each source separately (`by_source`).

    Parts: schema `schemas.CLUSTERS`; cluster ids are unique over all sources. Centers, of all
    clusters in order of id: `centers.arrow`, schema `schemas.centers`. Info: ClustersView. TooFew
    if there are more clusters than rows.
    """
    if not by_source and config.n_clusters > trajectories.rows:
        raise TooFew(
            f"clusters.n_clusters: {config.n_clusters:,}, but there are only "
            f"{trajectories.rows:,} examples to cluster"
        )
    from s2l_ray.clustering.kmeans import KMeans  # imports scikit-learn

    rows = Trajectories(store, trajectories, in_process=config.num_actors is None)
    sources = rows.sources() if by_source else [None]
    note = "starting actors" if rows.held is None else "initial centers"
    fits = []
    with Progress("k-means", total=len(sources), unit="fits", note=note) as progress:
        for number, source in enumerate(sources):
            n_clusters = config.n_clusters
            if by_source:
                n_clusters = rows.distinct(source, n_clusters)
            kmeans = KMeans(
                n_clusters,
                init=config.init,
                max_iter=config.max_iter,
                tol=config.tol,
                random_state=config.random_state,
                num_actors=config.num_actors,
            )
            resume = _Resume(store, folder, number)

            def keep(state: State, resume: _Resume = resume) -> None:
                progress.set(progress.done, f"iteration {state[1]:,}")
                resume.keep(state)

            with plain_errors():  # of the tasks that read the losses
                fits.append(kmeans.fit(rows.of(source), state=resume.read(), keep=keep))
            progress.advance(1)
    centers = [(s, fit.cluster_centers_) for s, fit in zip(sources, fits, strict=True)]
    info = {
        "inertia": sum(fit.inertia_ for fit in fits),
        "n_iter": max(fit.n_iter_ for fit in fits),
        "sources": [s for s, centers_KT in centers for _ in centers_KT],
    } | _diagnose(store, trajectories, config, None if by_source else fits[0])
    data = _centers_file(centers)
    kept = store.write_beside(data, folder, "centers.arrow")
    checksum = kept.checksum
    units = units_of(trajectories, made_of=checksum)
    labels = StageParts(f"{folder}/labels", fingerprint, units, {})
    args = store, trajectories.folder, centers, checksum, None
    made = make_parts(store, [labels], _Label, args, label="cluster", suffix="parquet")
    found = made[labels.folder]
    sizes = np.sum([part.stats["sizes"] for part in found], axis=0)
    parts = [replace(part, file=f"labels/{part.file}") for part in found]
    info |= {"sizes": sizes.tolist(), "centers": checksum}
    manifest = store.commit(folder, fingerprint, parts, info, [kept])
    store.remove(folder, "resume")
    return manifest


def label(
    store: Store, clusters: Manifest, generations: list[Manifest], *, folder: str, fingerprint: str
) -> Manifest:
    """Extend clusters by the trajectories of later generations, each at its nearest center.

    clusters: of the first generation. Info as of `cluster`, and drift (ClustersView). ValueError if
    clusters are of sources, and a generation has another source.
    """
    view = ClustersView(clusters)
    centers_KT = read_centers(store, clusters)
    if view.sources[0] is None:
        centers: list[tuple[str | None, np.ndarray]] = [(None, centers_KT)]
    else:
        sources = np.array(view.sources)
        centers = [(name, centers_KT[sources == name]) for name in dict.fromkeys(view.sources)]
    distances = [
        store.read_part(clusters.folder, part, ["distance"])["distance"].to_numpy()
        for part in sampled(clusters.parts)
    ]
    far = float(np.quantile(np.concatenate(distances), FAR))
    kept = store.write_beside(_centers_file(centers), folder, "centers.arrow")
    units = [
        {"unit": f"{part.unit}.g{number:03d}", "made_of": kept.checksum}
        | {"part": replace(part, folder=each.folder)}
        for number, each in enumerate(generations, 1)
        for part in each.parts
    ]
    labels = StageParts(f"{folder}/labels", fingerprint, units, {})
    args = store, folder, centers, kept.checksum, far
    made = make_parts(store, [labels], _Label, args, label="assign", suffix="parquet")
    found = made[labels.folder]
    sizes = np.sum([view.sizes, *(part.stats["sizes"] for part in found)], axis=0)
    parts = [replace(part, folder=part.folder or clusters.folder) for part in clusters.parts]
    parts += [replace(part, file=f"labels/{part.file}") for part in found]
    drift = [
        _drift(store, each, [part for part in found if part.unit.endswith(f".g{number:03d}")])
        for number, each in enumerate(generations, 1)
    ]
    info = clusters.info | {"sizes": sizes.tolist(), "centers": kept.checksum, "drift": drift}
    return store.commit(folder, fingerprint, parts, info, [kept])


def _drift(store: Store, trajectories: Manifest, labels: list[Part]) -> dict[str, Any]:
    """Say how far a generation lies from the first."""
    beyond: dict[str, list[int]] = {}
    for part in labels:
        for source, counts in part.stats["far"].items():
            had = beyond.setdefault(source, [0, 0])
            beyond[source] = [had[0] + counts[0], had[1] + counts[1]]
    means_T = mean_losses(store, trajectories) if trajectories.rows else np.empty(0)
    return {
        "examples": trajectories.rows,
        "far": sum(far for far, _ in beyond.values()),
        "by_source": dict(sorted(beyond.items())),
        "mean_losses": means_T.tolist(),
    }


class _Resume:
    """Keeps the last iteration of a k-means, from which a restart continues."""

    def __init__(self, store: Store, folder: str, number: int) -> None:
        self.store, self.folder, self.unit = store, f"{folder}/resume", f"kmeans-{number:03d}"
        names = store.names(self.folder)
        self.files = [name for name in names if name.startswith(f"{self.unit}-")]

    def keep(self, state: State) -> None:
        phase, iteration, gain, centers_KT = state
        width = centers_KT.shape[1]
        centers = pa.FixedSizeListArray.from_arrays(pa.array(centers_KT.reshape(-1)), width)
        part = self.store.write_part(
            pa.table({"losses": centers}),
            self.folder,
            self.unit,
            stats={"phase": phase, "iteration": iteration, "gain": gain},
        )
        for file in set(self.files) - {part.file}:
            self.store.remove(self.folder, file)
        self.files = [part.file]

    def read(self) -> State | None:
        found = [self.store.found_part(self.folder, file) for file in self.files]
        kept = [part for part in found if part is not None]
        if not kept:
            return None
        last = max(kept, key=lambda part: (part.stats["phase"], part.stats["iteration"]))
        centers_KT = losses_array(self.store.read_part(self.folder, last)).astype(np.float64)
        return *(last.stats[name] for name in ("phase", "iteration", "gain")), centers_KT


def read_centers(store: Store, clusters: Manifest) -> np.ndarray:
    """Return the centers [K, T] in order of cluster id. Damaged if their file is not as written."""
    address = store.address(clusters.folder, "centers.arrow")
    try:
        data = store.read_bytes(clusters.folder, "centers.arrow")
    except FileNotFoundError:
        raise Damaged(f"{address}: missing", clusters.folder) from None
    found, expected = checksum_of(data), ClustersView(clusters).centers
    if expected is not None and found != expected:
        raise Damaged(
            f"{address}: damaged: checksum {found}, the manifest lists {expected}", clusters.folder
        )
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return np.stack(table["center"].to_numpy())


class _Label:
    def __init__(
        self,
        store: Store,
        folder: str,
        centers: list[tuple[str | None, np.ndarray]],
        made_of: str,
        far: float | None,
    ) -> None:
        """made_of: checksum of the centers, so that labels of other centers are not kept. far: a
        distance; the examples beyond it are counted by source."""
        self.store, self.folder, self.centers, self.made_of = store, folder, centers, made_of
        self.far = far

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, unit["part"])
        losses_NT = losses_array(table)
        sources = table["source"].to_numpy(zero_copy_only=False)
        labels = np.full(len(losses_NT), -1, np.int32)
        distances = np.zeros(len(losses_NT))
        offset = 0
        for source, centers_KT in self.centers:
            rows = np.arange(len(labels)) if source is None else np.flatnonzero(sources == source)
            own, squared = assign(losses_NT[rows], centers_KT)
            labels[rows], distances[rows] = own + offset, np.sqrt(squared)
            offset += len(centers_KT)
        if (labels < 0).any():
            raise ValueError(
                f"the source {sources[labels < 0][0]!r} is not in the first generation, whose "
                "sources have the clusters: train the proxy on all examples with `s2l-ray refit`"
            )
        columns = [table["example_id"], labels, distances.astype(np.float32)]
        out = pa.table(columns, schema=schemas.CLUSTERS)
        sizes = np.bincount(labels, minlength=offset).tolist()
        stats = {"sizes": sizes, "made_of": self.made_of}
        if self.far is not None:
            names, codes = np.unique(sources.astype(str), return_inverse=True)
            beyond = np.bincount(codes, distances > self.far, len(names)).astype(int)
            counts = np.stack([beyond, np.bincount(codes, minlength=len(names))], axis=1)
            stats["far"] = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return out, stats


def assign_to_centers(
    store: Store, trajectories: Manifest, clusters: Manifest, *, folder: str, fingerprint: str
) -> Manifest:
    """Assign other trajectories to the nearest centers of a finished clustering that crosses
    sources. Parts: schema `schemas.CLUSTERS`. info: sizes, the number in each cluster [K]."""
    centers_KT, checksum = read_centers(store, clusters), ClustersView(clusters).centers
    units = units_of(trajectories, made_of=checksum)
    stage = StageParts(folder, fingerprint, units, {})
    args = store, trajectories.folder, [(None, centers_KT)], checksum, None
    made = make_parts(store, [stage], _Label, args, label="assign the purpose", suffix="parquet")
    parts = made[folder]
    sizes = np.sum([part.stats["sizes"] for part in parts], axis=0)
    return store.commit(folder, fingerprint, parts, {"sizes": sizes.tolist()})


def _diagnose(
    store: Store, trajectories: Manifest, config: ClustersConfig, fit: KMeans | None
) -> dict[str, Any]:
    losses_NT = losses_array(sample_trajectories(store, trajectories))
    singular = np.linalg.svd(losses_NT - losses_NT.mean(axis=0), compute_uv=False) ** 2
    agreement = None
    if config.stability and fit is not None:
        from s2l_ray.clustering.kmeans import KMeans

        def fit_sample(seed: int) -> KMeans:
            return KMeans(
                config.n_clusters,
                init=config.init,
                max_iter=config.max_iter,
                tol=config.tol,
                random_state=seed,
                num_actors=config.num_actors,
            ).fit(losses_NT)

        from sklearn.metrics import adjusted_rand_score  # takes seconds to import

        whole = len(losses_NT) == trajectories.rows
        try:
            one = fit if whole else fit_sample(config.random_state)  # both see the same rows
            other = fit_sample(config.random_state + 1)
            agreement = adjusted_rand_score(one.predict(losses_NT), other.predict(losses_NT))
        except ValueError:  # the sample has fewer distinct rows than clusters
            agreement = None
    return {
        "level_share": float(singular[0] / singular.sum()) if singular.sum() else None,
        "adjusted_rand": None if agreement is None else float(agreement),
    }


def _centers_file(centers: list[tuple[str | None, np.ndarray]]) -> bytes:
    rows = [(source, center) for source, centers_KT in centers for center in centers_KT]
    columns = [range(len(rows)), [source for source, _ in rows], [c.tolist() for _, c in rows]]
    table = pa.table(columns, schema=schemas.centers(len(rows[0][1])))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
