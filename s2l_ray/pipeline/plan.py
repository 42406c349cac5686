"""Every stage of a run, declared once: its inputs, what identifies it, and how it is made.

Announcing what will be reused, running, and pricing a selection all walk these declarations
(stage.walk). A stage's fingerprint follows from its inputs and settings. What makes a stage is
imported when it is made: a run that finds its stages finished needs no torch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from s2l_ray.config import (
    LossesConfig,
    RunConfig,
    SelectionConfig,
)
from s2l_ray.corpus.ingest import digest_of, ingest
from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.pipeline import alarms, passes, proxy
from s2l_ray.pipeline.choice import choice_stage, export_stages, trajectories_of
from s2l_ray.pipeline.copies import near_duplicates
from s2l_ray.pipeline.folds import out_of_fold
from s2l_ray.pipeline.growth import grown_corpus, joined
from s2l_ray.pipeline.identity import (
    local_files,
    settings_of,
)
from s2l_ray.pipeline.stage import Job, Stage, Work, alone
from s2l_ray.pipeline.tokens import prepare_tokenizer, tokens_of
from s2l_ray.pipeline.told import check_corpus, check_tokenizer_kept, check_tokens
from s2l_ray.pipeline.toward import along_path, purpose_examples, purpose_losses
from s2l_ray.scoring.imported import import_losses
from s2l_ray.scoring.loss_files import find
from s2l_ray.scoring.trajectories import assemble
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import drop_checkpoints

if TYPE_CHECKING:
    import ray.data

    from s2l_ray.pipeline.run import Run


def corpus_stage(config: RunConfig, dataset: ray.data.Dataset | None = None) -> Stage:
    """Declare the corpus: what config.corpus.path names, or the rows of a dataset (reads it)."""
    if config.corpus.grow:
        if dataset is not None:
            raise ValueError(
                "corpus.grow: found true with a dataset, which has no files to tell old examples "
                "from new ones: leave it out, or give corpus.path"
            )
        return grown_corpus(config)
    digest = None if dataset is None else digest_of(dataset, config.corpus)

    def make(run: Run, **where: Any) -> Manifest:
        return ingest(
            run.store, config.corpus, dataset=dataset, digest=digest, seed=config.seed, **where
        )

    return Stage(
        "corpus",
        alone(make),
        settings=(fingerprint_of(config.corpus, digest, seed=config.seed),),
        check=partial(check_corpus, config.corpus),
    )


class Plan:
    """The stages of a run with these settings, from the corpus on. Declares; makes nothing."""

    def __init__(
        self,
        config: RunConfig,
        corpus: Stage,
        prefix: str = "",
        *,
        generation: int | None = None,
        first: Plan | None = None,
    ) -> None:
        """prefix: of the names of the proxy and its losses, where a run has several.

        generation: which one of a corpus that grew this is the plan of. first: the plan of its
        first generation, which has the tokenizer and the proxy.
        """
        self.config, self.corpus, self.prefix = config, corpus, prefix
        self.steps: list[int] | None = None  # of `thinned`
        self.generation = generation
        self.generations = list[Plan]()
        for number, each in enumerate(corpus.generations):
            begun = self.generations[0] if number else None
            self.generations.append(Plan(config, each, generation=number, first=begun))
        self.first = first or (self.generations[0] if self.generations else self)

    def own(self, stage: Stage) -> Stage:
        """Return a stage under the name of the generation, if this is the plan of one."""
        if self.generation is None:
            return stage
        place = f"generations/{self.generation:03d}/{stage.name}" if self.generation else ""
        return replace(
            stage,
            name=f"generation-{self.generation}/{stage.name}",
            place=place or stage.place or stage.name,
            check=None,  # the whole is checked
        )

    # -- tokens, proxy, losses, trajectories

    @cached_property
    def tokens(self) -> Stage:
        if self.generations:
            return joined("tokens", [each.tokens for each in self.generations], self._check_tokens)
        proxy = self.config.proxy.model
        what = f"generation {self.generation}" if self.generation else "for the proxy"
        return self.own(tokens_of(self, "tokens", self.corpus, proxy, self.config.prompt, what))

    def _check_tokens(self, run: Run, tokens: Manifest) -> None:
        check_tokens("tokens", run, tokens)
        tokenizer = prepare_tokenizer(self, run, self.config.proxy.model, self.config.prompt)
        check_tokenizer_kept(run, tokens, tokenizer)

    @cached_property
    def proxy(self) -> Stage:
        if self.first is not self:
            return self.first.proxy
        settings = self.config.proxy
        if settings.checkpoints is not None:
            given = [proxy.given_model(settings, each) for each in settings.checkpoints]
            return Stage(
                "proxy",
                alone(partial(proxy.take_checkpoints, settings)),
                settings=("checkpoints", *given, *chain.from_iterable(map(local_files, given))),
            )
        beside = self.scoring if self.config.trajectories.while_training else None
        return Stage(
            f"{self.prefix}proxy",
            alone(partial(proxy.train_proxy, self)),
            inputs=(self.tokens,),
            settings=(*settings_of(settings), self.config.seed),
            work=Work("training", settings.workers, beside=beside),
        )

    @cached_property
    def losses(self) -> Stage:
        if self.config.losses is not None:
            return self._imported(self.config.losses)
        if self.generations:
            return joined("losses", [each.losses for each in self.generations])
        stage = Stage(
            f"{self.prefix}losses",
            alone(partial(proxy.score_proxy, self)),
            inputs=(self.proxy, self.tokens),
            settings=self.config.trajectories.precision,
            reads=tuple(self.details(self.config.selection).values()),
            work=self.scoring,
            check=self.drop_checkpoints if self.config.trains_proxy else None,
        )
        return self.own(stage)

    def drop_checkpoints(self, run: Run, _: Manifest) -> None:
        """Remove the proxy's checkpoints that proxy.keep_checkpoints does not keep, unless what
        the selection needs from them is still to do."""
        keep = self.config.proxy.keep_checkpoints
        config = self.config
        needed = [self.losses, *self.details(config.selection).values()]
        named = [each.selector for each in config.selection.contenders]
        named += config.evaluation.baselines
        if any(selector_named(each).toward == "shares" for each in named):
            needed.append(purpose_losses(self))
        if keep is None or not all(
            run.store.exists(each.folder, "manifest.json") for each in needed
        ):
            return
        proxy = run.store.manifest(self.proxy.folder)  # not run.get, which would make it again
        if proxy is not None:
            drop_checkpoints(run.store, proxy, keep)

    def _imported(self, settings: LossesConfig) -> Stage:
        def make(run: Run, **where: Any) -> Manifest:
            corpus, tokens = run.get(self.corpus), run.get(self.tokens)
            return import_losses(run.store, corpus, tokens, settings, **where)

        return Stage(
            "losses",
            alone(make),
            inputs=(self.tokens,),
            settings=("imported", settings, find(settings.path, self.config.storage).identity()),
            reads=(self.corpus,),
        )

    @cached_property
    def trajectories(self) -> Stage:
        def make(run: Run, **where: Any) -> Manifest:
            return assemble(run.store, run.get(self.corpus), run.get(self.losses), **where)

        if self.generations:
            parts = [each.trajectories for each in self.generations]
            return joined("trajectories", parts, partial(alarms.check_losses, self))
        stage = Stage(
            "trajectories",
            alone(make),
            inputs=(self.losses,),
            reads=(self.corpus,),
            check=partial(alarms.check_losses, self),
        )
        return replace(self.own(stage), check=stage.check if self.first is self else None)

    @cached_property
    def out_of_fold(self) -> Stage:
        """The losses of every example by a proxy that was not trained on it."""
        if self.generations:
            raise ValueError(
                "selection.selector: cross-fitting trains proxies on halves of the corpus, which "
                "later generations of a corpus that grows are in neither of; take another "
                "selector, or train the proxies again on all files with `s2l-ray refit`"
            )
        return out_of_fold(self)

    @cached_property
    def purpose(self) -> Stage:
        """The examples of selection.toward that the corpus does not have."""
        return purpose_examples(self)

    @cached_property
    def along_path(self) -> Stage:
        """The losses of every example along a training on the purpose's examples."""
        if self.generations:
            raise ValueError(
                "selection.selector: toward_path scores the corpus along a training of its own, "
                "and a corpus that grows is scored by its kept proxy alone; take toward, or "
                "leave out corpus.grow"
            )
        return along_path(self)

    @cached_property
    def near_duplicates(self) -> Stage | None:
        """The groups of near-duplicates; None if they are not searched for."""
        return near_duplicates(self)

    def thinned(self, steps: list[int]) -> Plan:
        """Return a plan whose trajectories have these steps alone; nothing is scored again."""
        plan = Plan(self.config, self.corpus, generation=self.generation)
        plan.steps = steps
        if self.generations:
            plan.generations = [each.thinned(steps) for each in self.generations]
            plan.first = plan.generations[0]
            return plan
        whole = self.trajectories

        def make(run: Run, **where: Any) -> Manifest:
            losses = replace(run.get(self.losses), info={"steps": steps})
            return assemble(run.store, run.get(self.corpus), losses, **where)

        vars(plan)["trajectories"] = self.own(
            Stage("trajectories", alone(make), inputs=(whole,), settings=("steps", steps))
        )
        return plan

    @cached_property
    def before(self) -> Stage:
        """The losses of the proxy before its training."""
        return passes.before(self)

    @cached_property
    def without_prompt(self) -> Stage:
        """The losses of the responses without their prompts, at the proxy's last checkpoint."""
        return passes.without_prompt(self)

    def details(self, choice: SelectionConfig) -> dict[str, Stage]:
        """Declare the signals at the proxy's first ("early") and last ("final") checkpoint."""
        return passes.details(self, choice)

    def score_details(self, run: Run, jobs: list[Job]) -> list[Manifest]:
        """The maker of all details: one pass makes those that are missing together."""
        return proxy.score_details(self, run, jobs)

    @property
    def scoring(self) -> Work:
        settings = self.config.trajectories
        return Work("scoring", settings.workers, settings.max_workers)

    # -- selections

    def selection(self, choice: SelectionConfig) -> Stage:
        """Declare one selector's subset, after what it draws from."""
        return choice_stage(self, choice)

    def exports(self, choice: SelectionConfig) -> dict[str, Stage]:
        """Declare the formats that a subset is written in, by name."""
        return export_stages(self.selection(choice), choice)

    def groups(self, choice: SelectionConfig) -> Stage:
        """Declare what a selection draws from: its clusters, its ranking, or the trajectories."""
        return self.selection(choice).inputs[0]

    def seen_by(self, choice: SelectionConfig) -> Stage:
        """Declare the trajectories that a selector looks at."""
        return trajectories_of(self, selector_named(choice.selector))
