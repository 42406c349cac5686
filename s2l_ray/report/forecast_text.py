"""What `plan` prints: as text, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from s2l_ray.analysis.cost import SIZES, WORTHS
from s2l_ray.analysis.laws_told import alike_told, table
from s2l_ray.config import BASELINE, RunConfig, WorkersConfig
from s2l_ray.config.prices import PricesConfig
from s2l_ray.formatting import MISSING, duration, percent, plural, short
from s2l_ray.models.room import gigabytes, parts_told
from s2l_ray.pipeline.comparison import num_targets
from s2l_ray.pipeline.forecast import Forecast, Need, longest_of
from s2l_ray.pipeline.odds import SD_OF_SEEDS, SPREAD, Sensitivity
from s2l_ray.pipeline.outlook import Outlook
from s2l_ray.pipeline.planned_laws import Planned
from s2l_ray.pipeline.pricing import Price

STAGES = ("stage", "state", "workers", "memory each")
PRICES = ("examples", "tokens", "FLOPs", "time", "CPU h", "GPU h", "store", "PUTs", "GETs")


def as_text(found: Outlook) -> str:
    """Return the stages with their prices, memory, odds, and what does not fit."""
    lines = [f"run_dir: {found.config.run_dir}", *_counts(found), "", *_table(found)]
    if found.unknown:
        lines += ["", f"unknown: {found.unknown}"]
    lines += _beside(found)
    for section, rate in found.rates.items():
        told = MISSING if rate.training is None else f"{short(rate.training)} tokens/s per worker"
        scoring = "" if rate.scoring is None else f", scoring {short(rate.scoring)} per actor"
        lines.append(f"speed, {section}: training {told}{scoring} ({rate.how})")
    lines += ["", *_memory(found)]
    if found.laws is not None:
        lines += ["", *_laws(found.laws)]
    if odds := _odds(found):
        lines += ["", "odds", *(f"  {each}" for each in odds)]
    if found.unfit:
        lines += ["", "does not fit", *(f"  {each}" for each in found.unfit)]
    return "\n".join(lines)


def _counts(found: Outlook) -> list[str]:
    work = found.work
    if work is None:
        return []
    rows = f"{work.rows:,} rows, {size_told(work.source_bytes)}"
    if not work.sampled:
        return [f"corpus: {rows}, counted by finished stages"]
    about = "" if work.counted else "about "
    return [
        f"corpus: {about}{rows}; counts are estimates from a sample of {work.sampled:,} rows, "
        f"which does not show duplicates"
    ]


def _table(found: Outlook) -> list[str]:
    memory = _memory_of(found.needs)
    prices: list[Price | None] = [*found.prices] or [None] * len(found.stages)
    money = found.config.prices if found.prices else None
    rows: list[Sequence[str]] = [STAGES]
    cells: list[str]
    for stage, price in zip(found.stages, prices, strict=True):
        cells = [stage.stage, stage.state, workers_told(stage.workers), memory(stage)]
        rows.append([*cells, *(_cells(price, money) if price else ())])
    if found.prices:
        rows[0] = (*STAGES, *PRICES, *([money.currency] if money else ()))
    if found.total is not None:
        rows.append(["all", "", "", "", *_cells(found.total, money)])
    return ["stages", *(f"  {line}" for line in aligned(rows))]


def _beside(found: Outlook) -> list[str]:
    """Say what `compare` would take, and what has no price."""
    lines, config = [], found.config
    if found.compared is not None:
        price, seeds = found.compared, plural(len(config.compare.seeds), "seed")
        lasts = "unknown time" if price.seconds is None else duration(price.seconds)
        gpus = f" and {price.gpu_hours:.3g} GPU-hours" if price.gpu_hours else ""
        targets = f"{num_targets(config):,} targets over {seeds}"
        lines.append(f"compare, from nothing: {targets}, {lasts}{gpus}")
    for field in ("answers", "texts"):
        if found.prices and getattr(config.evaluation, field):
            lines.append(f"not priced: what targets generate for evaluation.{field}")
    return lines


def _cells(price: Price, money: PricesConfig | None) -> list[str]:
    stored, cost = price.stored, price.money(money) if money else None
    cells = [
        short(price.examples) if price.examples else "",
        short(price.tokens) if price.tokens else "",
        f"{price.flops:.1e}" if price.flops else "",
        MISSING if price.seconds is None else duration(price.seconds) if price.seconds else "",
        _hours(price.cpu_hours),
        _hours(price.gpu_hours),
        size_told(stored.bytes),
        short(round(stored.puts)) if stored.puts else "",
        short(round(stored.gets)) if stored.gets else "",
    ]
    return cells if money is None else [*cells, MISSING if cost is None else f"{cost:,.2f}"]


def _hours(hours: float | None) -> str:
    return MISSING if hours is None else f"{hours:,.3g}" if hours else ""


def size_told(size: float) -> str:
    """Return such as "38 kB" or "4.2 GB"."""
    if size >= 1e9:
        return gigabytes(size)
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} kB" if size else ""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad columns, text on the left and numbers on the right."""
    columns = max(map(len, rows))
    full = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in full
    ]


def _memory_of(needs: list[Need]) -> Any:
    """Return a function of a stage: the memory of each of its workers."""
    known = {(need.section, need.of): need.memory for need in needs}

    def told(stage: Forecast) -> str:
        of = "target" if stage.stage.startswith(("targets", "evaluations")) else "proxy"
        section = "trajectories" if stage.passes == "scoring" else of
        memory = known.get((section, of)) if stage.passes else None
        return "" if memory is None else gigabytes(memory.on_gpu or memory.on_host)

    return told


def _memory(found: Outlook) -> list[str]:
    config = found.config
    lengths = [
        f"{longest_of(config, section):,} tokens ({section})"
        for section in ("proxy", "target")
        if section == "proxy" or config.target is not None
    ]
    lines = [f"memory, estimated at the longest examples: {', '.join(lengths)}"]
    for need in found.needs:
        lines.append(f"  {need.section}: {need.what}")
        if need.memory is None:
            lines.append(f"    unknown: {need.why}")
            continue
        if need.memory.gpu:
            have = f"; has {gigabytes(need.room.gpu)} ({need.room.where})" if need.room.gpu else ""
            lines.append(f"    each GPU: {_told(need.memory.gpu)}{have}")
        lines.append(f"    host memory of each: {_told(need.memory.host)}")
        if told := need.verdict.refused or need.verdict.doubtful:
            lines.append(f"    {'does not fit' if need.verdict.refused else 'may not fit'}: {told}")
    return lines


def _laws(laws: Planned) -> list[str]:
    told = [*table(laws.names, laws.tally), *alike_told(laws.names, laws.tally)]
    told += [f"{name} is not known: {reason}" for name, reason in laws.unknown.items()]
    return [
        f"what the selectors would choose, from the losses of {plural(laws.examples, 'example')}",
        *(f"  {each}" for each in told),
    ]


def _odds(found: Outlook) -> list[str]:
    against, work = found.against, found.work
    if against is None or work is None:
        return []
    lines = []
    if against.flops and against.worth is not None and found.config.target is not None:
        times = against.worth
        more = ""
        if times * work.chosen(found.config.selection.budget) > work.proxy.examples:
            more = ", more than the corpus has: training on all of it costs less"
        lines.append(
            f"Selecting takes {against.flops:.1e} operations, {_share(times - 1)} training this "
            f"target on the subset. It pays only if the subset is worth more than {times:.3g} "
            f"times as many random examples{more}."
        )
    lines += against.sentences
    return lines + [_sensitivity(each, found.config) for each in found.sensitivities]


def _share(share: float) -> str:
    return f"{percent(share)} of" if share < 1 else f"{share:.3g} times that of"


def _sensitivity(of: Sensitivity, config: RunConfig) -> str:
    if of.least is None:
        return f"{of.field}: {plural(of.seeds, 'seed')} shows no spread and allows no verdict."
    verdict = "" if of.verdict else ", and allow no verdict"
    over = ""
    if of.over_examples is not None:
        over = f"; the held-out examples add a standard error of {of.over_examples:.2g}"
    return (
        f"{of.field}: {of.seeds} seeds can show a difference of {of.least:.2g} nats per token to "
        f"{BASELINE} (80% power){verdict}, if differences vary by {SD_OF_SEEDS:g} over seeds, "
        f"{SPREAD}{over}."
    )


def as_json(found: Outlook) -> dict[str, Any]:
    """Return the same as `as_text`; sizes in bytes, times in seconds."""
    prices: list[Price | None] = [*found.prices] or [None] * len(found.stages)
    money = found.config.prices
    return {
        "stages": [
            {
                "stage": stage.stage,
                "state": stage.state,
                "passes": stage.passes,
                "workers": stage.workers and stage.workers.model_dump(mode="json"),
            }
            | (_price(price, money) if price else {})
            for stage, price in zip(found.stages, prices, strict=True)
        ],
        "unknown": found.unknown or None,
        "total": found.total and _price(found.total, money),
        "compare": found.compared and _price(found.compared, money),
        "currency": money.currency if money else None,
        "corpus": found.work
        and {
            "rows": found.work.rows,
            "sampled": found.work.sampled,
            "examples": found.work.proxy.examples,
            "heldout": found.work.heldout,
            "tokens": found.work.proxy.tokens,
            "label_tokens": found.work.proxy.labels,
            "truncated_share": found.work.proxy.truncated,
        },
        "speed": {section: rate._asdict() for section, rate in found.rates.items()},
        "against_random": found.against
        and found.against._asdict()
        | {
            "worth": found.against.worth,
            "worth_by_size": {n: found.against.worth_for(p) for n, p in SIZES.items()},
            "break_even": {f"{m:g}": found.against.break_even(m) for m in WORTHS},
        },
        "sensitivity": [each._asdict() for each in found.sensitivities],
        "laws": found.laws
        and {name: asdict(found.laws.law(i)) for i, name in enumerate(found.laws.names)},
        "unfit": found.unfit,
        "memory": [
            {
                "section": need.section,
                "what": need.what,
                "gpu": need.memory and _rounded(need.memory.gpu),
                "host": need.memory and _rounded(need.memory.host),
                "gpu_has": need.room.gpu,
                "refused": need.verdict.refused or None,
                "doubtful": need.verdict.doubtful or None,
                "unknown": need.why or None,
            }
            for need in found.needs
        ],
    }


def _price(price: Price, money: PricesConfig | None) -> dict[str, Any]:
    found = price._asdict()
    del found["stage"], found["state"]
    found |= {"stored": price.stored._asdict()}
    return found | ({"money": price.money(money)} if money else {})


def _rounded(parts: dict[str, float]) -> dict[str, int]:
    return {name: round(size) for name, size in parts.items()}


def _told(parts: dict[str, float]) -> str:
    return f"{gigabytes(sum(parts.values()))} ({parts_told(parts)})"


def workers_told(workers: WorkersConfig | None) -> str:
    """Return such as "2 workers of 1 CPU and 1 GPU (H100)"."""
    if workers is None:
        return "tasks of 1 CPU"
    gpus = ""
    if workers.gpus_per_worker:
        kind = f" ({workers.accelerator_type})" if workers.accelerator_type else ""
        gpus = f" and {workers.gpus_per_worker:g} GPU{kind}"
    count = plural(workers.num_workers, "worker")
    cpus = f"{workers.cpus_per_worker:g} CPU{'' if workers.cpus_per_worker == 1 else 's'}"
    return f"{count} of {cpus}{gpus}"
