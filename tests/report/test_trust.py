"""The first screen: three short sentences, alarms, and what to run next."""

from __future__ import annotations

import copy
import dataclasses
import os
import shlex
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.reports import Page, arms_of, report_data

from s2l_ray.analysis.alarms import Alarm
from s2l_ray.commands import COMMANDS
from s2l_ray.config import validate
from s2l_ray.config.loading import apply_override
from s2l_ray.config.strict_yaml import parse_yaml
from s2l_ray.report.next_steps import loading, next_steps, settings_text
from s2l_ray.report.page import render
from s2l_ray.report.trust import alarms, chosen, source_mix, trust


def data_of(**fields):
    counts = {"corpus_by_source": {"a": 600, "b": 400}, "subset_by_source": {"a": 30, "b": 70}}
    return dataclasses.replace(report_data(), **counts | {"arms": ()} | fields)


def test_share_and_budget_have_the_same_whole() -> None:
    """12% of the 838 examples with a response token are 100; of the corpus they would be 10%."""
    data = data_of(n_unlabelled=162, budget="12%", subset_by_source={"a": 31, "b": 70})
    assert chosen(data) == (
        "s2l chose 101 of the 838 examples that have a response token: 12.1%; budget 12%."
    )
    assert chosen(data_of(budget="10%")) == "s2l chose 100 of 1,000 examples: 10.0%; budget 10%."
    text = " ".join(Page(render(data)).text)
    assert "10.1%" not in text


def test_the_mix_of_sources_by_hand() -> None:
    # 60 and 40% against 30 and 70%: half of |30| + |30| is 30%.
    assert source_mix(data_of()) == (
        "They come from all 2 sources, in a mix that differs from the corpus’s by 30.0%."
    )
    assert "from 1 of 2 sources" in source_mix(data_of(subset_by_source={"a": 100}))
    assert source_mix(data_of(corpus_by_source={"a": 1})) == "The corpus has 1 source."


@pytest.mark.parametrize(
    ("s2l", "told", "tone"),
    [
        ([0.9], "Not yet shown to help: held-out loss is 0.100 lower than with random examples "
                "(1 pair; a verdict needs 6).", "unsure"),
        ([1.1, 1.2], "Do not trust it yet: held-out loss is 0.150 higher than with random examples "
                     "(2 pairs; a verdict needs 6).", "bad"),
        # mean -0.02, variance 0.8e-4, SE 0.0036515, t 2.571: half width 0.00939
        ([0.99, 0.98, 0.97, 0.99, 0.98, 0.97],
         "Trust it: held-out loss is 0.0200 lower than with random examples (95% interval −0.0294 "
         "to −0.0106, 6 pairs).", "good"),
        ([1.01, 1.02, 1.03, 1.01, 1.02, 1.03],
         "Do not use it: held-out loss is 0.0200 higher than with random examples (95% interval "
         "+0.0106 to +0.0294, 6 pairs).", "bad"),
        ([], "Whether they help was not measured: no target was trained on them and on random "
             "ones.", "unsure"),
    ],
)  # fmt: skip
def test_trust_is_one_sentence_with_the_evidence(s2l, told, tone) -> None:
    arms = arms_of(s2l=s2l, random=[1.0] * len(s2l))
    assert trust(data_of(arms=arms)) == (told, tone)


def test_chance_is_called_chance() -> None:
    arms = arms_of(s2l=[0.9, 1.1, 0.8, 1.2, 0.95, 1.0], random=[1.0] * 6)
    told, tone = trust(data_of(arms=arms))
    assert (
        told.startswith("Not shown to help: held-out loss differs by −0.00833") and tone == "unsure"
    )
    assert trust(data_of(selector="random"))[0].startswith("Nothing to compare")


def test_what_may_make_the_selection_worthless_stands_at_the_top() -> None:
    told = [Alarm("diverged", "The proxy diverged <b>", "Lower it."), Alarm("x", "Another", "Y.")]
    data = data_of(alarms=told, arms=arms_of(s2l=[float("nan")]))
    assert alarms(data) == [
        ("The proxy diverged <b>", "Lower it."), ("Another", "Y."),
        ("1 target diverged", "A held-out loss is not finite. Lower target.learning_rate."),
    ]  # fmt: skip
    html = render(data)
    assert html.count('role="alert"') == 3 and "diverged <b>" not in html
    assert html.index('role="alert"') < html.index("<h2") and 'class="headline bad"' in html
    assert 'role="alert"' not in render(data_of())


def test_the_next_step_follows_from_what_is_known() -> None:
    def first(**fields):
        return next_steps(data_of(**fields))[0].command.split(" ", 1)[0:1], next_steps(
            data_of(**fields)
        )[0].command

    [_], command = first(has_target=False)
    assert "pipeline" in command and "target.model.name=NAME" in command
    assert " pipeline " in first()[1]
    assert " compare " in first(arms=arms_of(s2l=[0.9], random=[1.0]))[1]
    better = arms_of(s2l=[0.99, 0.98, 0.97, 0.99, 0.98, 0.97], random=[1.0] * 6)
    assert " finetune " in first(arms=better)[1]
    worse = arms_of(s2l=[1.01, 1.02, 1.03, 1.01, 1.02, 1.03], random=[1.0] * 6)
    assert next_steps(data_of(arms=worse))[0].why == "Compare other selectors"
    on_s3 = next_steps(data_of(settings_path="s3://bucket/run/report/config.yaml"))
    assert on_s3[0].command == "aws s3 cp s3://bucket/run/report/config.yaml config.yaml"
    assert on_s3[1].command == "s2l-ray pipeline config.yaml"
    at = next_steps(data_of(settings_path="s3://b/config.yaml", endpoint="http://127.0.0.1:8000"))
    assert at[0].command == (
        "aws s3 cp --endpoint-url http://127.0.0.1:8000 s3://b/config.yaml config.yaml"
    )
    assert first(has_heldout=False)[1].endswith("corpus.heldout_share=0.02")
    assert next_steps(data_of(settings_path="")) == []
    commands = [step.command for step in next_steps(data_of(exports={}))]
    assert sum(command.endswith("'selection.export=[messages]'") for command in commands) == 1
    assert not any("selection.export" in step.command for step in next_steps(data_of()))


def test_every_command_is_one_that_the_program_takes(tmp_path) -> None:
    """Each names a command, and its overrides fit the settings that it reads."""
    model = {"model": {"name": "m"}, "num_checkpoints": 2}
    settings = {"run_dir": "r", "corpus": {"path": "c"}, "proxy": model, "target": model}
    better = arms_of(s2l=[0.99, 0.98, 0.97, 0.99, 0.98, 0.97], random=[1.0] * 6)
    worse = arms_of(s2l=[1.01, 1.02, 1.03, 1.01, 1.02, 1.03], random=[1.0] * 6)
    some = {"arms": arms_of(s2l=[0.9], random=[1.0])}
    seen = set()
    for fields in ({}, {"has_target": False}, {"has_heldout": False}, some,
                   {"arms": better}, {"arms": worse}):  # fmt: skip
        for step in next_steps(data_of(**fields)):
            program, command, file, *overrides = shlex.split(step.command)
            assert (program, file) == ("s2l-ray", "/runs/my demo/report/config.yaml")
            assert command in COMMANDS
            given = copy.deepcopy(settings)
            for override in overrides:
                apply_override(given, override)
            validate(given)
            seen.add(command)
    assert seen == {"pipeline", "compare", "finetune", "diagnose", "select"}


def test_the_subset_is_loaded_as_the_page_says(tmp_path) -> None:
    """In a process of its own: datasets keeps a cache where it is told at import."""
    (tmp_path / "the subset").mkdir()
    for number in (0, 1):
        table = pa.table({"example_id": [number, 7], "turns": [[{"role": "user"}]] * 2})
        pq.write_table(table, tmp_path / f"the subset/part-{number:05d}-abc.parquet")
    _, _, code = loading(data_of(subset_path=str(tmp_path / "the subset"))).partition("\n\n")
    code += "\nprint(subset['example_id'][:])"
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "[0, 7, 1, 7]", done.stderr


def test_the_settings_beside_the_page_are_a_configuration() -> None:
    config = validate(
        {"run_dir": "runs/x", "corpus": {"path": "c é.jsonl"},
         "proxy": {"model": {"name": "m"}, "num_checkpoints": 2}, "selection": {"budget": "11%"}}
    )  # fmt: skip

    class Run:
        class store:
            uri = "/abs/runs/x"

    Run.config = config
    again = validate(parse_yaml(settings_text(Run)))
    assert again == config.model_copy(update={"run_dir": "/abs/runs/x"})
