"""Compare the selectors on a corpus by the held-out loss of pretrained targets.

    python benchmarks/comparison.py math_pool.jsonl runs/comparison

1. A third of the corpus, chosen by a hash of the instruction, is set aside. A proxy and a target
   are trained on it from scratch (warm-up). All later models start from these weights, so the
   comparison is one of fine-tuning.
2. The rest is the corpus of the comparison; 5% of it is held out. jobs/compare.py runs on it.

A stopped run continues. DIR/compare.yaml is the configuration, DIR/run/report/comparison.html the
page. Overrides may follow DIR: `compare.also=[]` keeps the main selectors only,
`clusters.n_clusters=20` changes the selection and keeps the models.

- `runs`: seeds; each has its own proxy, draw and target.
- `shared`: how much of the subset random's subset contains too, in percent.
- `loss`: held-out loss in nats per response token. `macro`: the mean over sources.
- `− random`: the paired difference, with its 95% interval over seeds.
- `error over examples`: the part of the difference's standard error that the held-out examples
  cause for all seeds alike.
- `p (Holm)`: corrected over the budgets and methods; a verdict takes six seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import ray
import yaml

from benchmarks import machine
from s2l_ray.config import CompareConfig, SelectorName, validate
from s2l_ray.corpus.identity import hash63
from s2l_ray.report.comparison_tables import groups_of

LOSS = CompareConfig(primary="loss")  # as in the results so far
MAIN = ["s2l", "s2l_official", "random", "random_balanced", "random_shares", "loss_strata"]
PROMPT = {"template": "plain", "max_length": 256}
PROXY = {"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "intermediate_size": 256,
         "max_position_embeddings": 256}  # fmt: skip
TARGET = {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 3,
          "num_attention_heads": 4, "intermediate_size": 384,
          "max_position_embeddings": 256}  # fmt: skip
TWO = {"num_workers": 2}


def split(corpus: str, folder: Path) -> None:
    """Write warmup.jsonl with a third of the instructions, and corpus.jsonl with the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(corpus) as lines, open(folder / "warmup.jsonl", "w") as warm, \
            open(folder / "rest.jsonl", "w") as rest:  # fmt: skip
        for line in lines:
            text = json.loads(line)["instruction"].encode()
            (warm if hash63(text) % 3 == 0 else rest).write(line)
    (folder / "rest.jsonl").rename(folder / "corpus.jsonl")


def warm_up(folder: Path) -> dict[str, str]:
    """Train a proxy and a target; return their folders."""
    from s2l_ray.pipeline.run import Run
    from s2l_ray.pipeline.subset import prepare
    from s2l_ray.pipeline.targets import finetune, model_path

    training = {"global_batch_size": 64, "micro_batch_size": 32, "learning_rate": 0.002,
                "warmup_share": 0.1, "num_checkpoints": 2, "workers": TWO}  # fmt: skip
    models = {name: {"architecture": shape, "tokenizer_vocab": 2048}
              for name, shape in (("proxy", PROXY), ("target", TARGET))}  # fmt: skip
    proxy, target = ({"model": models[name], "epochs": 4} | training for name in models)
    config = validate(
        {
            "name": "warm-up", "run_dir": str(folder / "warmup"), "prompt": PROMPT,
            "corpus": {"path": str(folder / "warmup.jsonl")}, "proxy": proxy, "target": target,
        }
    )  # fmt: skip

    def both(run: Run) -> dict[str, str]:
        prepare(run)
        ways = {"proxy": config.proxy, "target": config.target}
        return {
            name: model_path(
                run, finetune(run, run.get(run.plan.corpus), name, seed=0, training=way)
            )
            for name, way in ways.items()
        }

    try:
        with Run.start(config) as run:
            return run.finish(both)
    finally:
        ray.shutdown()  # the comparison starts one of its own


def settings(folder: Path, models: dict[str, str]) -> dict[str, Any]:
    return {
        "name": "comparison",
        "run_dir": str(folder / "run"),
        "corpus": {"path": str(folder / "corpus.jsonl"), "heldout_share": 0.05},
        "prompt": PROMPT,
        "proxy": {
            "model": {"name": models["proxy"]}, "epochs": 2, "num_checkpoints": 8,
            "global_batch_size": 64, "micro_batch_size": 32, "learning_rate": 0.001,
            "warmup_share": 0.1, "workers": TWO,
        },
        "trajectories": {"workers": TWO},
        "clusters": {"n_clusters": 100, "stability": False},
        "target": {
            "model": {"name": models["target"]}, "epochs": 2, "global_batch_size": 32,
            "micro_batch_size": 16, "learning_rate": 0.0005, "warmup_share": 0.1,
        },
        "evaluation": {"answer_marker": "The answer is", "targets_at_once": 2},
        "compare": {
            "selectors": MAIN,
            "worth": [],
            "untuned": False,
            "also": [name for name in get_args(SelectorName) if name not in MAIN],
        },
    }  # fmt: skip


def results(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per budget and method: held-out loss and macro loss (the mean over sources), and
    their differences from random. `of other metrics` holds uncorrected p values."""
    rows = []
    for group in groups_of(records, LOSS):
        for row in group.tables[0].rows:
            mean, _, low, high, _ = row.difference
            others = {
                table.metric.key: next(r for r in table.rows if r.method == row.method)
                for table in group.tables[1:]
            }
            macro = others["macro"]
            rows.append({
                "selector": row.method, "budget": group.budget, "runs": row.runs,
                "tokens trained on": group.costs[row.method]["trained_tokens"],
                "shared": group.costs[row.method]["shared"],
                "loss": row.mean, "difference": mean, "from": low, "to": high,
                "over examples": row.over_examples,
                "p (Holm)": row.adjusted_p, "verdict": row.verdict,
                "macro": macro.mean, "macro difference": macro.difference.mean,
                "macro from": macro.difference.low, "macro to": macro.difference.high,
                "macro over examples": macro.over_examples,
                "of other metrics": [
                    {"metric": key, "mean": each.mean, "difference": each.difference._asdict()}
                    for key, each in others.items()
                ],
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="JSON lines: instruction, output, source")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    split(arguments.corpus, folder)
    config = settings(folder, warm_up(folder))
    (folder / "compare.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, str(ROOT / "jobs/compare.py"), str(folder / "compare.yaml")]
    subprocess.run(command + arguments.overrides, check=True)
    records = json.loads((folder / "run/report/comparison.json").read_text())
    rows = results(records)
    controls = [
        f"Budget {group.budget}, {table.metric.words}: {sentence}"
        for group in groups_of(records, LOSS)
        for table in group.tables[:2]
        for sentence in table.controls
    ]
    print(machine.table(rows, list(rows[0])[:-1]))
    told = {"corpus": arguments.corpus, "settings": " ".join(arguments.overrides) or "defaults"}
    machine.write(arguments.json, told, rows, controls=controls, records=records)


if __name__ == "__main__":
    main()
