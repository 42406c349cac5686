"""benchmarks/gpu.py on a CPU, with small shapes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import gpu, readme
from benchmarks.gpu_checks import scoring
from benchmarks.gpu_checks.setup import Setup

SMALL = Setup("cpu", small=True)


def test_losses_are_compared_with_the_cpu_s():
    row = scoring.compared(SMALL, "Llama-1B", "bf16", 16)
    assert row["met"] and 0 < row["from the CPU's fp32"] < 5e-3
    loss = np.array([2.0, 0.5])
    assert scoring.difference(loss + 0.1, loss) == pytest.approx(0.1)  # relative to max(1, loss)


@pytest.mark.slow
def test_a_check_that_fails_or_takes_too_long_is_recorded():
    def runs(name, limit=60.0):
        [row] = gpu.run(name, "cpu", True, limit)
        return row["error"]

    assert runs("no_such_check").startswith("KeyError: 'no_such_check'\nTraceback")
    assert runs("rates", limit=0.0) == "not begun: no time is left"
    assert runs("losses", limit=0.01) == "not finished after 0 s"


def test_rows_are_shown_with_their_numbers_in_one_column():
    row = {"check": "scoring", "case": "a", "tokens/s": 12345.6, "share of floor": 0.61,
           "check seconds": 3.2, "goal": "60%", "met": True}  # fmt: skip
    assert gpu.shown(row)["result"] == "tokens/s 12,346, share of floor 0.61"
    assert gpu.shown(row)["met"] == "yes"
    assert gpu.shown({"check": "a", "error": "ValueError: b\ntrace"})["result"] == "ValueError: b"


@pytest.mark.slow
def test_all_checks_pass_on_a_cpu_with_small_shapes(tmp_path):
    file = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small"]
    done = subprocess.run(
        [*command, "--json", str(file)], cwd=readme.ROOT, capture_output=True, text=True
    )
    found = json.loads(file.read_text())
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert {row["check"] for row in found["rows"]} == gpu.LIMITS.keys()
    assert not [row for row in found["rows"] if "error" in row or row.get("met") is False]
    assert sum(gpu.LIMITS.values()) == 8 * 60
