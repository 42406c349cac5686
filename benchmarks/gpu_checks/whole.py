"""The check of one whole `select` under Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.gpu_checks.setup import Row, Setup
from s2l_ray.corpus import demo

ROOT = Path(__file__).resolve().parents[2]


def select(setup: Setup) -> list[Row]:
    """Select from 2,000 examples with a proxy of Pythia-70M's shape, in a Ray of its own."""
    count = 200 if setup.small else 2000
    shape = setup.shape("Pythia-70M")
    vocab = shape["vocab_size"] if setup.small else 8192
    workers = {"num_workers": 1, "gpus_per_worker": 1 if setup.on_gpu else 0}
    with tempfile.TemporaryDirectory() as folder:
        corpus, run_dir = Path(folder, "corpus.jsonl"), Path(folder, "run")
        demo.write(corpus)
        lines = corpus.read_text().splitlines(keepends=True)
        corpus.write_text("".join(lines[:count]))
        config = {
            "run_dir": str(run_dir),
            "corpus": {"path": str(corpus), "num_parts": 4},
            "prompt": {"max_length": 256},
            "proxy": {
                "model": {"architecture": shape, "tokenizer_vocab": vocab},
                "epochs": 1,
                "num_checkpoints": 3,
                "global_batch_size": 32,
                "micro_batch_size": 32,
                "workers": workers,
            },
            "trajectories": {"workers": workers},
            "clusters": {"n_clusters": 20},
            "selection": {"budget": count // 10},
        }
        Path(folder, "config.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "s2l_ray.cli", "select", str(Path(folder, "config.yaml"))]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"select ended with {done.returncode}: {done.stderr[-2000:]}")
        times = json.loads((run_dir / "run.json").read_text())["times"]
        [chosen] = run_dir.glob("selections/*/*/manifest.json")
        info = json.loads(chosen.read_text())["info"]
    longest = {t["stage"]: t["seconds"] for t in times if t["stage"] in ("proxy", "losses")}
    return [
        {
            "case": f"{count:,} examples, gpus_per_worker {workers['gpus_per_worker']}",
            "seconds": taken,
            **{f"{stage} seconds": seconds for stage, seconds in longest.items()},
            "chosen": info["examples"],
            "goal": f"{count // 10} chosen",
            "met": info["examples"] == count // 10,
        }
    ]
