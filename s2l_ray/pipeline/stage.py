"""A stage, declared: its name, what identifies it, its inputs, how it is made, what that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from s2l_ray.config import WorkersConfig, fingerprint
from s2l_ray.store import Manifest

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run


class Job(NamedTuple):
    """A stage to make, and where: the arguments that all stage functions take."""

    stage: Stage
    folder: str
    fingerprint: str

    @property
    def where(self) -> dict[str, Any]:
        return {"folder": self.folder, "fingerprint": self.fingerprint}


# Makes stages that are not there yet, and returns their manifests in order. Stages that share a
# maker and are missing together are made in one call, with one pool of actors.
Maker = Callable[["Run", list[Job]], list[Manifest]]


class Work(NamedTuple):
    """What a stage takes. Without workers of its own it may take every CPU of the cluster.

    beside: what works at the same time, such as the scoring of a proxy that trains.
    """

    passes: Literal["training", "scoring"] | None = None  # passes through a model
    workers: WorkersConfig | None = None
    max_workers: int | None = None  # the pool may grow to this
    beside: Work | None = None

    @property
    def gpus(self) -> float:
        """The GPUs that the workers reserve at most."""
        own = 0.0
        if self.workers is not None:
            most = max(self.workers.num_workers, self.max_workers or 0)
            own = self.workers.gpus_per_worker * most
        return own + (self.beside.gpus if self.beside else 0.0)


ON_CPUS = Work()


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a run. Its output is the folder `place/fingerprint` of the run directory.

    inputs, settings: identify the stage, in this order.
    reads: stages that are read too; the inputs identify them.
    beside: settings that change the folder, but nothing that is made from the stage.
    place: of the output, unless it is `name`.
    generations, shares: of a corpus that grew: the corpora that it consists of, and their shares
    of the files' bytes.
    known_as: what stages made from this one depend on, unless it is `inputs` and `settings`.
    apart: made in a thread of its own, evaluation.targets_at_once of such stages at a time.
    check: called with the manifest whenever a run first meets it, whether made or found.
    found: the manifest of a stage that exists already.
    """

    name: str
    maker: Maker
    inputs: tuple[Stage, ...] = ()
    settings: tuple[Any, ...] = ()
    reads: tuple[Stage, ...] = ()
    beside: tuple[Any, ...] = ()
    place: str = ""
    generations: tuple[Stage, ...] = ()
    shares: tuple[float, ...] = ()
    known_as: str | None = None
    work: Work = ON_CPUS
    apart: bool = False
    check: Callable[[Run, Manifest], None] | None = None
    found: Manifest | None = None

    @classmethod
    def given(cls, manifest: Manifest) -> Stage:
        """A stage that exists, such as a subset that a target is trained on."""

        def never(*_: Any) -> list[Manifest]:
            raise AssertionError(manifest.folder)

        return cls(manifest.folder, never, known_as=manifest.fingerprint, found=manifest)

    @cached_property
    def _own(self) -> str:
        return fingerprint(*(each.identity for each in self.inputs), *self.settings)

    @cached_property
    def identity(self) -> str:
        return self.known_as or self._own

    @cached_property
    def fingerprint(self) -> str:
        if self.found is not None:
            return self.found.fingerprint
        return fingerprint(self._own, *self.beside) if self.beside else self._own

    @property
    def folder(self) -> str:
        return f"{self.place or self.name}/{self.fingerprint}"


def alone(make: Callable[..., Manifest]) -> Maker:
    """A maker for one stage: `make(run, folder=…, fingerprint=…)`."""

    def maker(run: Run, jobs: list[Job]) -> list[Manifest]:
        return [make(run, **job.where) for job in jobs]

    return maker


def walk(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Yield stages and all that they are made from, each once, inputs before what they make."""
    seen = set[str]()

    def visit(stage: Stage) -> Iterator[Stage]:
        if stage.found is not None or stage.folder in seen:
            return
        seen.add(stage.folder)
        for each in (*stage.inputs, *stage.reads):
            yield from visit(each)
        yield stage

    for stage in stages:
        yield from visit(stage)
