"""A pilot: what it chooses, its comparison, and the answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from s2l_ray.analysis.decision import Check, Decision, decide, headroom
from s2l_ray.analysis.measures import metrics_of
from s2l_ray.analysis.paired import outcomes_of
from s2l_ray.analysis.race import run_race
from s2l_ray.config import BASELINE, RunConfig, fingerprint
from s2l_ray.formatting import duration, plural
from s2l_ray.pipeline import comparison
from s2l_ray.pipeline.outlook import price
from s2l_ray.pipeline.pilot import OVER, Limit, Pilot, choose, mains_of, run_dir_of
from s2l_ray.pipeline.pricing import Price
from s2l_ray.pipeline.rates import Given
from s2l_ray.pipeline.records import Record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.timing import Stored
from s2l_ray.report import comparison_page, comparison_text
from s2l_ray.store import Store

if TYPE_CHECKING:
    from s2l_ray.commands import Planning

CONFIG, RECORD = "pilot.yaml", "pilot.json"


class Spent(Exception):
    """The next seed would exceed the limit. records: of the seeds so far."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__()
        self.records = records


def run(config: RunConfig, options: Planning, limit: Limit, check: Check = headroom) -> str:
    """Choose a comparison, run it and return the answer. check: the headroom (analysis.decision).

    ValueError if no comparison fits the limit.
    """
    store = Store(run_dir_of(config), config.storage)
    asked = fingerprint(config, limit._asdict())
    pilot = _chosen_before(store, asked)
    if pilot is None:
        priced = price(config, Given(options.gpu, options.tokens_per_second))
        if isinstance(priced, str):
            raise ValueError(priced)
        pilot = choose(priced, limit)
    print("\n".join(_choice(pilot, limit)))
    began = time.monotonic()

    def guard(records: list[Record]) -> None:
        comparison_text.tell_progress(pilot.config, records)
        seeds, share = len({each["selection_seed"] for each in records}), limit.share(pilot.price)
        spent = time.monotonic() - began
        if not share or not pilot.price.seconds or seeds == len(pilot.config.compare.seeds):
            return
        if spent * (seeds + 1) / seeds > OVER * pilot.price.seconds / share:
            raise Spent(records)

    with Run.start(pilot.config, "compare") as of_pilot:
        _keep(of_pilot.store, pilot, asked)
        ended = []
        try:
            records = of_pilot.finish(lambda run: comparison.compare(run, guard))
        except Spent as early:
            records = early.records
            ended.append(
                f"ended after {plural(len({r['selection_seed'] for r in records}), 'seed')}: "
                f"another would exceed {limit.told}"
            )
        decision = _decision(records, pilot.config, check, mains_of(config))
        page = comparison_page.write(of_pilot, records)
        of_pilot.store.write_json(decision._asdict(), "report", RECORD)
    text = comparison_text.as_text(records, pilot.config.compare)
    lines = [text, *ended, f"report: {page}", "", *told(decision)]
    return "\n".join(lines)


def told(decision: Decision) -> list[str]:
    """Return the answer in sentences; the first line is the answer alone."""
    lines = [f"pilot: {decision.answer}", f"  {decision.why}."]
    return lines + ([f"  What would decide it: {decision.would}."] if decision.would else [])


def _decision(
    records: list[Record], config: RunConfig, check: Check, mains: Sequence[str] = ()
) -> Decision:
    """mains: what the pilot is about; of several, the one with the best mean is decided on. By
    default the run's selector."""
    mains = mains or [config.selection.selector]
    whole = [record for record in records if "too_few" not in record]
    trained = [main for main in mains if any(record["method"] == main for record in whole)]
    if not trained:
        reasons = [each["too_few"] for each in records if each["method"] in mains]
        why = "; ".join([f"{' and '.join(mains)} was not trained", *dict.fromkeys(reasons)])
        return Decision("undecided", why, "a smaller selection.budget")
    metric = metrics_of(whole, config.compare.primary)[0]
    racing = [record for record in whole if record["method"] in (*trained, BASELINE)]
    main = run_race(racing, config.compare.primary).leader
    return decide(outcomes_of(whole, metric), metric, main, check)


def _choice(pilot: Pilot, limit: Limit) -> list[str]:
    compare, seconds = pilot.config.compare, pilot.price.seconds
    arms = ", ".join([*compare.selectors, *(f"the whole corpus, equal {f}" for f in compare.full)])
    hours = f", {pilot.price.gpu_hours:.3g} GPU-hours" if pilot.price.gpu_hours else ""
    lasts = "unknown time" if seconds is None else f"about {duration(seconds)}"
    return [
        f"pilot: the comparison that tells most within {limit.told} takes {lasts}{hours}:",
        *(f"  {each}" for each in pilot.told),
        f"  {comparison.num_targets(pilot.config)} targets: {arms}",
        f"  run_dir: {pilot.config.run_dir} ({CONFIG} is its configuration)",
    ]


def _keep(store: Store, pilot: Pilot, asked: str) -> None:
    """Keep the choice: measured again, it might be another, and a pilot would not continue."""
    data = pilot.config.model_dump(mode="json", exclude_unset=True)
    store.write_bytes(yaml.safe_dump(data, sort_keys=False).encode(), CONFIG)
    price: dict[str, Any] = pilot.price._asdict()
    kept = {"asked": asked, "told": pilot.told, "price": price | {"stored": list(price["stored"])}}
    store.write_json(kept, RECORD)


def _chosen_before(store: Store, asked: str) -> Pilot | None:
    if not store.exists(RECORD) or not store.exists(CONFIG):
        return None
    kept = store.read_json(RECORD)
    if kept["asked"] != asked:
        return None
    config = RunConfig.model_validate(yaml.safe_load(store.read_bytes(CONFIG)))
    price = Price(**kept["price"] | {"stored": Stored(*kept["price"]["stored"])})
    return Pilot(config, price, kept["told"])
