"""Scoring while the proxy trains, on two nodes and on one, against scoring after the training.

    python benchmarks/overlap.py math_pool.jsonl

The nodes are Ray nodes of one CPU each, as processes of this machine, which needs two CPUs. The
proxy trains on one CPU; each actor scores on one.

- `÷ longer stage`: seconds divided by those of training alone or of scoring with one actor alone,
  whichever is longer.
- `÷ own training`: time to the last part of the losses, divided by the time to the last checkpoint
  of the same run. Training is slower while the other CPU works too.

The timeline starts with the proxy stage; one character is five seconds. `#` marks a written
checkpoint (training) or a written part of the losses (scoring).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import ray
from ray.cluster_utils import Cluster

import s2l_ray
from benchmarks import machine
from s2l_ray.config import validate
from s2l_ray.execution import connect as driver
from s2l_ray.store import Store

SHAPE = {"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "intermediate_size": 256,
         "max_position_embeddings": 256}  # fmt: skip
SECONDS = 5.0  # per character of the timeline


def settings(
    run_dir: Path, corpus: Path, epochs: float, *, while_training: bool, actors: int
) -> Any:
    one = {"num_workers": 1, "cpus_per_worker": 1}
    return validate(
        {
            "name": "overlap",
            "run_dir": str(run_dir),
            "corpus": {"path": str(corpus), "num_parts": 8},
            "prompt": {"template": "plain", "max_length": 256},
            "proxy": {
                "model": {"architecture": SHAPE, "tokenizer_vocab": 2048},
                "epochs": epochs,
                "num_checkpoints": 8,
                "global_batch_size": 64,
                "micro_batch_size": 32,
                "learning_rate": 0.002,
                "workers": one,
            },
            "trajectories": {
                "workers": one | {"num_workers": actors},
                "while_training": while_training,
            },
            "clusters": {"n_clusters": 50, "stability": False},
            "selection": {"budget": 0.11},
        }
    )


def run(nodes: int, config: Any) -> dict[str, float]:
    """Seconds of each stage by name; for scoring, what is left after the training."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR",
             runtime_env={"env_vars": driver.WORKER_ENVIRONMENT})  # fmt: skip
    try:
        s2l_ray.select(None, config)
    finally:
        ray.shutdown()
        cluster.shutdown()
    times = Store(config.run_dir).read_json("run.json")["times"]
    return {entry["stage"]: entry["seconds"] for entry in times}


def timeline(run_dir: Path) -> tuple[dict[str, str], float]:
    """One character per SECONDS for training and scoring, # where a file was written; and the time
    that both took, divided by the time to the last checkpoint."""
    written = {
        "training": [p.stat().st_mtime for p in run_dir.glob("proxy/*/checkpoint-*/*.safetensors")],
        "scoring": [p.stat().st_mtime for p in run_dir.glob("losses/*/step-*/*.arrow")],
    }
    tokenised = max(p.stat().st_mtime for p in run_dir.glob("tokens/*/manifest.json"))
    trained, scored = (max(times) - tokenised for times in written.values())
    columns = int(scored / SECONDS) + 1
    found = {}
    for name, times in written.items():
        places = {int((time - tokenised) / SECONDS) for time in times}
        found[name] = "".join("#" if n in places else "." for n in range(columns))
    return found, scored / trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="JSON lines")
    parser.add_argument("--examples", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    driver.quiet()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name, "corpus.jsonl")
        with open(arguments.corpus) as lines, open(corpus, "w") as out:
            out.writelines(islice(lines, arguments.examples))
        longer = 0.0
        for way, nodes, ahead, actors in (
            ("sequential, 2 nodes, 1 actor", 2, False, 1),
            ("sequential, 2 nodes, 2 actors", 2, False, 2),
            ("while training, 2 nodes", 2, True, 2),
            ("while training, 1 node", 1, True, 1),
        ):
            folder = Path(name, way)
            config = settings(folder, corpus, arguments.epochs, while_training=ahead, actors=actors)
            took = run(nodes, config)
            longer = longer or max(took["proxy"], took["losses"])
            both = took["proxy"] + took["losses"]
            marked, of_its_training = timeline(folder)
            shown = [f"{name:8} {marks}" for name, marks in marked.items()]
            print(way, *shown, sep="\n  ", flush=True)
            rows.append(
                {
                    "way": way,
                    "training": took["proxy"],
                    "scoring after training": took["losses"],
                    "seconds": both,
                    "÷ longer stage": both / longer,
                    "÷ own training": of_its_training,
                    "timeline": shown,
                }
            )
    print(machine.table(rows, list(rows[0])[:-1]))
    machine.write(arguments.json, vars(arguments), rows)


if __name__ == "__main__":
    main()
