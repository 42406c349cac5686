"""Small runs: rows, settings, and what a run directory holds."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from s2l_ray.config import validate
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Stage, walk

MARK = "zqx"  # in every text of the corpus, nowhere else


def rows(count=240, seed=5):
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        source = ("sums", "words", "chat")[number % 3]
        length = random.integers(1, 8)
        found.append(
            {
                "instruction": f"{MARK}{number} " + "say it again, " * int(length // 3) + "now",
                "output": " ".join(f"{MARK}{random.integers(9)}" for _ in range(length)),
                "source": source,
            }
        )
    return found


def settings(run_dir, **changes):
    """The tiny run; changes by dotted key."""
    data = {
        "name": "tiny",
        "run_dir": str(run_dir),
        "corpus": {"path": "unused.jsonl", "heldout_share": 0.1, "num_parts": 3},
        "prompt": {"template": "plain", "max_length": 48},
        "proxy": {
            "model": {"architecture": architecture("gpt_neox"), "tokenizer_vocab": 320},
            "epochs": 1,
            "num_checkpoints": 3,
            "global_batch_size": 32,
            "micro_batch_size": 32,
            "learning_rate": 0.01,
        },
        "clusters": {"n_clusters": 5},
        "selection": {"budget": 40, "seed": 0, "export": ["alpaca"]},
        "target": {
            "model": {"architecture": architecture("llama"), "tokenizer_vocab": 320},
            "epochs": 2,
            "global_batch_size": 20,
            "micro_batch_size": 20,
            "learning_rate": 0.01,
        },
        "evaluation": {"seeds": [0, 1]},
        "report": {"examples": False},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = data
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return validate(data)


def architecture(kind):
    return {
        "model_type": kind,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
    }


def corpus(items=None):
    # Few blocks: the default is up to 200, and each costs a task (3 s in all).
    return ray.data.from_items(rows() if items is None else items, override_num_blocks=3)


def files_of(folder):
    """Of a run: path -> content and time of writing, run.json and leases apart."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "run.json" and path.parent.name != "lease"
    }


def contents_of(folder, *names):
    found = {path: content for path, (content, _) in files_of(folder).items()}
    return {path: content for path, content in found.items() if path.startswith(names)}


def stages_run(folder):
    """Names of the stages that the last command made, and of those it found."""
    times = json.loads((Path(folder) / "run.json").read_text())["times"]
    made = [entry["stage"] for entry in times if not entry["reused"]]
    return made, [entry["stage"] for entry in times if entry["reused"]]


def ids_of(store, manifest):
    """The example ids of a stage, part after part."""
    tables = [store.read_part(manifest.folder, part, ["example_id"]) for part in manifest.parts]
    return pa.concat_tables(tables)["example_id"].to_pylist()


def rows_of(store, manifest):
    """The rows of a stage, part after part."""
    parts = [store.read_part(manifest.folder, part) for part in manifest.parts]
    return [row for part in parts for row in part.to_pylist()]


def plan_of(config, origin="origin"):
    """The plan of a run whose corpus comes from `origin`; nothing is read."""
    return Plan(config, Stage("corpus", lambda *_: [], settings=(origin,)))


def fingerprints_of(config, origin="origin"):
    """Stage -> fingerprint, of all up to the run's selection."""
    plan = plan_of(config, origin)
    return {stage.name: stage.fingerprint for stage in walk([plan.selection(config.selection)])}


class Given(Run):
    """A run whose stages are given, by name, and not made."""

    @classmethod
    def of(cls, config, done=None, store=None, times=()):
        return cls(config, store, None, plan_of(config), dict(done or {}), list(times))

    def get(self, stage):
        return stage.found or self.done[stage.name]

    def find(self, stage):
        return stage.found or self.done.get(stage.name)
