"""How to go on after a run: commands to paste, and how to load the subset."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

import yaml

from s2l_ray.analysis.paired import paired
from s2l_ray.analysis.statistics import MIN_UNITS
from s2l_ray.config import BASELINE
from s2l_ray.report.data import ReportData
from s2l_ray.report.trust import trust
from s2l_ray.report.verdict import differences

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run

SETTINGS = ("report", "config.yaml")
FEWEST_SEEDS = ",".join(map(str, range(MIN_UNITS)))


class NextStep(NamedTuple):
    why: str
    command: str


def settings_text(run: Run) -> str:
    """Return the resolved configuration as YAML that the commands take, from any folder."""
    settings = run.config.model_dump(mode="json") | {"run_dir": run.store.uri}
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


class Commands:
    """Commands with the settings of a run, collected in order; first of all one that fetches the
    settings from an object store."""

    def __init__(self, settings_path: str, endpoint: str | None = None) -> None:
        self.steps: list[NextStep] = []
        self.file = "config.yaml" if "://" in settings_path else settings_path
        if self.file != settings_path:
            where = ["--endpoint-url", endpoint] if endpoint else []
            words = ["aws", "s3", "cp", *where, settings_path, self.file]
            self._add("Get the settings of this run", words)

    def add(self, why: str, command: str, *overrides: str) -> None:
        self._add(why, ["s2l-ray", command, self.file, *overrides])

    def _add(self, why: str, words: list[str]) -> None:
        self.steps.append(NextStep(why, " ".join(shlex.quote(word) for word in words)))


def write_settings(run: Run) -> Commands:
    """Write the configuration beside the pages; return the commands that read it, none yet."""
    run.store.write_bytes(settings_text(run).encode(), *SETTINGS)
    return Commands(run.store.address(*SETTINGS), run.config.storage.endpoint)


def next_steps(data: ReportData) -> list[NextStep]:
    """Return what to run next, the most useful first."""
    if not data.settings_path:
        return []
    commands = Commands(data.settings_path, data.endpoint)
    step = commands.add
    _, tone = trust(data)
    n_pairs = len(differences(paired(data.arms, data.selector, BASELINE)))
    if not data.has_target:
        needed = ["target.model.name=NAME"]
        needed += [] if data.has_heldout else ["corpus.heldout_share=0.02"]
        step("Name a target, to learn whether the subset helps", "pipeline", *needed)
    elif not n_pairs and not data.has_heldout:
        why = "Hold examples out and measure whether a subset helps (the proxy is trained again)"
        step(why, "pipeline", "corpus.heldout_share=0.02")
    elif not n_pairs:
        step("Measure whether the subset helps", "pipeline")
    elif n_pairs < MIN_UNITS:
        seeds = f"compare.seeds=[{FEWEST_SEEDS}]"
        step(f"Get a verdict, from {MIN_UNITS} seeds", "compare", seeds)
    elif tone == "good":
        step("Train the target on the subset", "finetune")
    else:
        step("Compare other selectors", "compare")
    if not data.exports:
        step("Write the subset for another trainer", "select", "selection.export=[messages]")
    step("Learn how much of the selection is noise", "diagnose")
    step("Choose another budget, from the same proxy", "select", "selection.budget=0.05")
    return commands.steps


def loading(data: ReportData) -> str:
    """Return Python code that loads the subset, with Ray Data and as a Hugging Face dataset."""
    files = f"{data.subset_path}/*.parquet"
    return (
        "import ray.data\n"
        f"subset = ray.data.read_parquet({data.subset_path!r})\n\n"
        "from datasets import load_dataset\n"
        f"subset = load_dataset('parquet', data_files={files!r}, split='train')"
    )
