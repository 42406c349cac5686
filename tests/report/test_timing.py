"""What each stage of a run took."""

from __future__ import annotations

from types import SimpleNamespace

from s2l_ray.report.data import Timing
from s2l_ray.report.timing import timings_of
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
    found = timings_of(SimpleNamespace(done=done, times=times))
    assert found == [
        Timing("corpus", None, "", "reused"),
        Timing("proxy", 30.0, "30.0 tokens/s while training", "run", 3.0),
        Timing("losses", 10.0, "25.0 rows/s", "run, 2 times"),
        Timing("selections/s2l-seed0/dealt", 1.0, "", "run"),
        Timing("clusters", 2.0, "", "resumed"),
    ]
