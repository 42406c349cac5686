"""Benchmarks that no other test runs, on few rows, as their heads say."""

import json
import subprocess
import sys

import pytest
from support.head import REPOSITORY

COMMANDS = {
    "kmeans": ["--rows", "3000", "--seeds", "1", "--n-clusters", "10"],
    "scale": ["--rows", "62500", "125000", "--n-clusters", "10"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_runs_and_writes_its_rows(name, tmp_path):
    file = tmp_path / "found.json"
    command = [sys.executable, f"benchmarks/{name}.py", *COMMANDS[name], "--json", str(file)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(file.read_text())
    assert found["command"].startswith(f"python benchmarks/{name}.py")
    rows = {row.get("k-means", row.get("rows")): row for row in found["rows"]}
    if name == "kmeans":
        assert {"ours", "ours, 2 actors", "scikit-learn KMeans", "faiss"} <= rows.keys()
        assert rows["ours"]["inertia"] == rows["ours, 2 actors"]["inertia"]
        assert 0.8 < rows["ours"]["inertia ratio"] < 1.2
    else:
        assert list(rows) == [62_500, 125_000]
        assert rows[125_000]["chosen"] == 13_750
