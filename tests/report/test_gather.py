"""What a run's page takes from the run."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

from support.reports import report_data

from s2l_ray.corpus.rows import Example
from s2l_ray.report import gather
from s2l_ray.report.data import Timing
from s2l_ray.report.gather import shown_texts
from s2l_ray.report.page import render
from s2l_ray.store import Manifest, Part


def entry(stage, seconds, *, reused=False, resumed=False):
    return {"stage": stage, "seconds": seconds, "reused": reused, "resumed": resumed}


def test_a_stage_that_was_repaired_has_one_row_with_the_sum_of_its_seconds():
    """By hand: 100 rows in the last 4 s; a reused stage adds nothing."""
    parts = [Part("part-0", "f", 100, 1, "c", {})]
    trained = {"padded_tokens": 9, "tokens": 90, "seconds": 3.0}
    done = {
        "corpus": Manifest("corpus/x", "x", [], {}),
        "proxy": Manifest("proxy/x", "x", [], trained),
        "losses": Manifest("losses/x", "x", parts, {}),
        "clusters": Manifest("clusters/x", "x", parts, {}),
    }
    times = [
        entry("corpus", 0.0, reused=True),
        entry("proxy", 30.0),
        entry("losses", 6.0),
        entry("selections/s2l-seed0/dealt", 1.0),  # not needed after the repair
        entry("corpus", 0.0, reused=True),  # from here on the second attempt
        entry("proxy", 0.0, reused=True),
        entry("losses", 4.0),
        entry("clusters", 2.0, resumed=True),
    ]
    found = gather.timings_of(SimpleNamespace(done=done, times=times))
    assert found == [
        Timing("corpus", None, "", "reused"),
        Timing("proxy", 30.0, "30 tokens/s while training", "run"),
        Timing("losses", 10.0, "25 rows/s", "run, 2 times"),
        Timing("selections/s2l-seed0/dealt", 1.0, "", "run"),
        Timing("clusters", 2.0, "", "resumed"),
    ]
    page = render(dataclasses.replace(report_data(K=2, T=2), timings=found))
    section = re.search("<h2>Time and throughput</h2>(.*?)</section>", page, re.DOTALL)[1]
    assert section.count("<bdi>losses</bdi>") == 1 and "<td>run, 2 times</td>" in section


def test_an_example_is_shown_with_all_that_it_has():
    call = '[{"type":"function","function":{"name":"f","arguments":{}}}]'
    turns = [
        {"role": "system", "text": "s"},
        {"role": "user", "text": "q", "name": "Ann"},
        {"role": "input", "text": "i", "train": None},
        {"role": "assistant", "text": "", "tool_calls": call, "train": False},
        {"role": "tool", "text": "3", "tool_call_id": "c1"},
        {"role": "assistant", "text": "a", "reasoning": "r"},
        {"role": "user", "text": "bye"},
    ]
    prompt, response = shown_texts(Example(turns, '[{"name":"f"}]'))
    assert prompt.splitlines() == [
        '[tools] [{"name":"f"}]', "s", "[name] Ann", "q", "i", "[no labels]",
        f"[tool_calls] {call}", "[tool_call_id] c1", "[tool] 3",
    ]  # fmt: skip
    assert response.splitlines() == ["[reasoning] r", "a"]
    assert shown_texts(Example([turns[1] | {"name": None}, turns[3] | {"train": None}])) == (
        "q",
        f"[tool_calls] {call}",
    )
    plain = Example([{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}])
    assert shown_texts(plain) == ("q", "a")
