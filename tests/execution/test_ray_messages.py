"""What Ray's raylets tell the driver."""

import inspect

import pytest
from ray._private import worker

from s2l_ray.execution import ray_messages

USUAL = [
    "WARNING: 8 PYTHON worker processes have been started on node: 5e03 with address: 10.0.0.7.",
    "Actor with class name: 'PreemptionWatcher' and ID: '0a' has constructor arguments in the "
    "object store and max_restarts > 0. If the arguments in the object store go out of scope …",
]


@pytest.fixture
def told(monkeypatch, said, capsys):
    """Have a message as Ray's listener gets it: what is logged."""
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # put back later
    ray_messages.log_instead()

    def call(message):
        data = {"lines": [message], "pid": "raylet", "is_err": False}
        worker.print_to_stdstream(data, ignore_prefix=False)
        assert capsys.readouterr() == ("", "")
        return said()

    return call


def test_ray_prints_messages_with_the_function_that_is_replaced():
    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)


def test_the_usual_messages_are_left_out_and_others_logged(told):
    assert [told(message) for message in USUAL] == ["", ""]
    assert told("2 Workers killed due to memory pressure (OOM)\n") == (
        "Ray: 2 Workers killed due to memory pressure (OOM)\n"
    )
