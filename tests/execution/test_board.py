"""What a training worker writes on the board, and the driver reads: in one process here."""

import pytest
import ray

from s2l_ray.execution import board
from s2l_ray.execution.events import Point


def make():
    return board.Board.__ray_metadata__.modified_class()


def steps(points):
    return [point.step for point in points]


def test_each_point_is_read_once():
    written = make()
    assert written.read() == (0, "", [], 0)
    for step in (1, 2, 3):
        written.write(step, f"step {step}", Point(step, 2.0) if step != 2 else None)
    step, note, points, seen = written.read()
    assert (step, note, steps(points), seen) == (3, "step 3", [1, 3], 2)
    assert steps(written.read(seen)[2]) == []
    written.write(4, "", Point(4))
    assert steps(written.read(seen)[2]) == [4]
    restarted = make()  # its node died: it knows nothing of what was read
    restarted.write(5, "", Point(5))
    assert steps(restarted.read(3)[2]) == [5]


def test_the_newest_points_stay_if_nobody_reads(monkeypatch):
    monkeypatch.setattr(board, "POINTS", 3)
    written = make()
    for step in range(10):
        written.write(step, "", Point(step))
    _, _, points, seen = written.read(2)
    assert (steps(points), seen) == ([7, 8, 9], 10)


def test_a_board_that_was_given_back_is_used_again_empty(local_ray):
    first = board.make_board()
    first.write.remote(7, "old", Point(7))
    assert board.step_on(first) == 7
    board.give_back(first)
    again, other = board.make_board(), board.make_board()
    assert again._actor_id == first._actor_id != other._actor_id
    assert board._read(again) == (0, "", [], 0)
    ray.kill(again)
    with pytest.raises(ray.exceptions.RayActorError):
        while True:  # until it has died
            ray.get(again.clear.remote())
    board.give_back(again)
    new = board.make_board()  # that one has died
    assert new._actor_id != again._actor_id and board.step_on(new) == 0
