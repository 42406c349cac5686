"""What the proxy tells beside its losses at the checkpoints, declared: its losses before training,
those of responses alone, and signals."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from s2l_ray.config import SelectionConfig
from s2l_ray.corpus.derived import without_prompts
from s2l_ray.pipeline import proxy
from s2l_ray.pipeline.identity import local_files
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run


def before(plan: Plan) -> Stage:
    """Declare the losses of the proxy before its training."""
    config, lora = plan.config, plan.config.proxy.lora
    return Stage(
        "before",
        alone(partial(proxy.score_before, plan)),
        inputs=(plan.tokens,),
        settings=(
            config.proxy.model,
            *local_files(config.proxy.model),
            *([] if lora is None else [lora.settings()]),
            config.seed,
            *config.trajectories.precision,
        ),
        work=plan.scoring,
    )


def without_prompt(plan: Plan) -> Stage:
    """Declare the losses of the responses without their prompts, at the last checkpoint."""

    def make(run: Run, **where: Any) -> Manifest:
        return without_prompts(run.store, run.get(plan.tokens), **where)

    tokens = Stage(
        "without_prompt/tokens", alone(make), inputs=(plan.tokens,), settings=("responses",)
    )
    return Stage(
        "without_prompt",
        alone(partial(proxy.score_last, plan, tokens)),
        inputs=(plan.proxy, tokens),
        settings=plan.config.trajectories.precision,
        work=plan.scoring,
    )


def details(plan: Plan, choice: SelectionConfig) -> dict[str, Stage]:
    """Declare the signals at the first ("early") and the last ("final") checkpoint: those that this
    selection needs, and those that the run's own selection and baselines need, since one pass
    computes them together."""
    own = selector_named(choice.selector).details
    return {
        when: replace(
            _details(plan, when, wanted),
            # A selection depends on the columns that it needs, whatever else was computed.
            known_as=_details(plan, when, own[when]).identity if when in own else None,
        )
        for when, wanted in proxy.columns(plan.config, choice).items()
    }


def _details(plan: Plan, when: str, columns: tuple[str, ...]) -> Stage:
    return Stage(
        f"details/{when}",
        plan.score_details,
        inputs=(plan.proxy, plan.tokens),
        settings=(*plan.config.trajectories.precision, "details", when, columns),
        work=plan.scoring,
    )
