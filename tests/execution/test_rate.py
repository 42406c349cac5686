"""How fast something goes, without its start."""

import pytest

from s2l_ray.execution import rate
from s2l_ray.execution.rate import Rate


@pytest.fixture
def at(monkeypatch):
    """Set the time."""
    now = [0.0]
    monkeypatch.setattr(rate.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_the_start_does_not_count(at):
    """50 s until the first of 44 steps, then 2 a second."""
    speed = Rate()
    assert speed.now is None and speed.overall is None
    for step in range(1, 45):
        at(50 + step / 2)
        speed.add(step)
        if step < 5:
            assert speed.now is None
        else:
            assert speed.now == pytest.approx(2)
    assert speed.overall == pytest.approx(2)


def test_it_follows_what_changes(at):
    """100 s with 10 a second, then 1 a second."""
    speed = Rate()
    for tenth in range(1, 1001):
        at(tenth / 10)
        speed.add(tenth)
    assert speed.now == pytest.approx(10, rel=0.01) and len(speed.points) < 400
    for second in range(1, 61):
        at(100 + second)
        speed.add(1000 + second)
    assert speed.now == pytest.approx(1, rel=0.05)
    assert speed.overall == pytest.approx(1060 / 160, rel=0.01)


def test_units_that_take_longer_than_the_window(at):
    speed = Rate()
    for unit in range(1, 6):
        at(300 * unit)
        speed.add(unit)
    assert speed.now == pytest.approx(1 / 300)


def test_what_was_found_does_not_count(at):
    """Of 24 parts, 14 are there. The others take 10 s each."""
    speed = Rate()
    for part in range(24):
        at(max(0, part - 13) * 10)
        if part < 14:
            speed.skip(1)
        else:
            speed.add(part + 1)
    assert speed.now == speed.overall == pytest.approx(1 / 10)
    speed.skip(100)
    assert speed.now == speed.overall == pytest.approx(1 / 10)


def test_units_that_end_together_tell_no_rate(at):
    """Four workers end their first parts within a second, and their second parts 30 s later."""
    speed = Rate()
    for done, seconds in enumerate([30, 30.2, 30.5, 31], start=1):
        at(seconds)
        speed.add(done)
    assert speed.now is None
    for done, seconds in enumerate([60, 60.2, 60.5, 61], start=5):
        at(seconds)
        speed.add(done)
    assert speed.now == pytest.approx(7 / 31)  # 4 / 30 were right
