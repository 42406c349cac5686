"""What `plan` prints: as text, and as JSON."""

from __future__ import annotations

from typing import Any

from s2l_ray.config import RunConfig, WorkersConfig
from s2l_ray.formatting import plural
from s2l_ray.models.room import gigabytes, parts_told
from s2l_ray.pipeline.forecast import Forecast, Need, longest_of


def as_text(config: RunConfig, stages: list[Forecast], unknown: str, needs: list[Need]) -> str:
    """Return the stages, and the memory of each training and scoring."""
    width = max(len(each.stage) for each in stages)
    lines = [f"run_dir: {config.run_dir}", "", "stages"]
    for each in stages:
        lines.append(f"  {each.stage:<{width}}  {each.state:<7}  {_workers_told(each.workers)}")
    if unknown:
        lines.append(f"  {unknown}")
    lengths = [
        f"{longest_of(config, section):,} tokens ({section})"
        for section in ("proxy", "target")
        if section == "proxy" or config.target is not None
    ]
    lines += ["", f"memory, estimated at the longest examples: {', '.join(lengths)}"]
    for need in needs:
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
    return "\n".join(lines)


def as_json(stages: list[Forecast], unknown: str, needs: list[Need]) -> dict[str, Any]:
    """Return the same as `as_text`; sizes in bytes."""
    return {
        "stages": [
            {
                "stage": each.stage,
                "state": each.state,
                "passes": each.passes,
                "workers": each.workers and each.workers.model_dump(mode="json"),
            }
            for each in stages
        ],
        "unknown": unknown or None,
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
            for need in needs
        ],
    }


def _rounded(parts: dict[str, float]) -> dict[str, int]:
    return {name: round(size) for name, size in parts.items()}


def _told(parts: dict[str, float]) -> str:
    return f"{gigabytes(sum(parts.values()))} ({parts_told(parts)})"


def _workers_told(workers: WorkersConfig | None) -> str:
    if workers is None:
        return "tasks of 1 CPU"
    gpus = ""
    if workers.gpus_per_worker:
        kind = f" ({workers.accelerator_type})" if workers.accelerator_type else ""
        gpus = f" and {workers.gpus_per_worker:g} GPU{kind}"
    count = plural(workers.num_workers, "worker")
    cpus = f"{workers.cpus_per_worker:g} CPU{'' if workers.cpus_per_worker == 1 else 's'}"
    return f"{count} of {cpus}{gpus}"
