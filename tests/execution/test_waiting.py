"""Which actor gets which unit."""

from s2l_ray.execution.waiting import Waiting


def units(steps, parts, near=True):
    """Every part at every step: waves of one step each."""
    waiting = Waiting()
    for step in range(steps):
        for part in range(parts):
            unit = {"folder": "f", "unit": f"{step}/{part}", "step": step, "part": part}
            waiting.add(unit | ({"near": part} if near else {}), step)
    return waiting


def take(waiting, actor):
    taken = waiting.take(actor)
    return None if taken is None else (taken[1]["step"], taken[1]["part"])


def test_actors_of_equal_speed_keep_their_parts():
    waiting, had = units(steps=3, parts=6), {"a": [], "b": []}
    while waiting:
        for actor in "ab":
            had[actor].append(take(waiting, actor))
    for actor, parts in (("a", [0, 2, 4]), ("b", [1, 3, 5])):
        assert had[actor] == [(step, part) for step in range(3) for part in parts]
    assert take(waiting, "a") is None


def test_the_next_unit_is_kept_for_its_actor():
    waiting = units(steps=1, parts=4)
    assert take(waiting, "a") == (0, 0)
    assert waiting.next_of("a")["part"] == 1
    assert take(waiting, "b") == (0, 2)
    assert take(waiting, "a") == (0, 1)


def test_a_fast_actor_takes_parts_over_and_keeps_them():
    waiting = units(steps=2, parts=4)
    assert [take(waiting, actor) for actor in "abab"] == [(0, n) for n in range(4)]
    # b is slow: a goes on with its own parts, then with b's last one.
    assert [take(waiting, "a") for _ in range(3)] == [(1, 0), (1, 2), (1, 3)]
    assert take(waiting, "b") == (1, 1)
    assert waiting.owner == {0: "a", 1: "b", 2: "a", 3: "a"}


def test_an_actor_that_is_gone_leaves_its_parts():
    waiting = units(steps=2, parts=2)
    assert [take(waiting, actor) for actor in "ab"] == [(0, 0), (0, 1)]
    waiting.forget("a")
    waiting.add({"folder": "f", "unit": "0/0", "step": 0, "part": 0, "near": 0}, 0)
    assert len(waiting) == 3
    assert take(waiting, "c") == (0, 0)
    assert [take(waiting, "c"), take(waiting, "b")] == [(1, 0), (1, 1)]


def test_units_near_nothing_come_in_order():
    waiting = units(steps=2, parts=3, near=False)
    assert waiting.next_of("a")["unit"] == "0/0"
    got = [take(waiting, actor) for actor in "abacab"]
    assert got == [(step, part) for step in range(2) for part in range(3)]
    assert not waiting and waiting.next_of("a") is None and not waiting.owner
