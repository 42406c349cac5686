"""The configurations of the golden tests, and their small corpus."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

from support.golden_seam import SELECTOR_NAMES

SOURCES = ("sums", "words", "chat")


def architecture(kind: str) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
    }


# A run that takes seconds; paths are relative, since the corpus is known by its name too.
BASE: dict[str, Any] = {
    "name": "golden",
    "run_dir": "run",
    "corpus": {
        "path": "corpus.jsonl",
        "heldout_share": 0.1,
        "num_parts": 2,
        "max_rejected_share": 0.05,
    },
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
    "selection": {"budget": 20},
    "target": {
        "model": {"architecture": architecture("llama"), "tokenizer_vocab": 320},
        "epochs": 1,
        "global_batch_size": 10,
        "micro_batch_size": 10,
        "learning_rate": 0.01,
    },
    "evaluation": {"seeds": [0]},
    "report": {"examples": False},
}


def changed(changes: dict[str, Any], base: dict[str, Any] = BASE) -> dict[str, Any]:
    """The base's settings with others, by dotted key."""
    data = copy.deepcopy(base)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = data
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return data


def each(*selectors: str, **changes: Any) -> list[dict[str, Any]]:
    return [{"selector": selector, **changes} for selector in selectors]


# name -> (changes of BASE, changes of the run's selection whose stages are marked beside its own)
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "every selector": ({"selection.toward": "demo"}, each(*SELECTOR_NAMES)),
    "defaults": (
        {
            "prompt": {},
            "proxy": {"model": BASE["proxy"]["model"], "num_checkpoints": 3},
            "clusters": {},
            "selection": {},
            "target": {"model": BASE["target"]["model"]},
            "evaluation": {},
        },
        each("high_learnability", "facility_location", "random_tokens"),
    ),
    "details that baselines ask for": (
        {
            "evaluation.baselines": [
                "random", "el2n", "grand", "facility_location", "least_confidence_early",
            ],
        },
        each("el2n_middle", "k_center", "confidence_curriculum", "least_confidence", "longest"),
    ),
    "details of what a baseline is like": (
        {"evaluation.baselines": ["random", "random_shares"], "selection.like": "el2n"},
        each("random_shares", "random_tokens", "grand"),
    ),
    "a selector of details that the run names": (
        {"selection.selector": "confidence_curriculum"},
        each("s2l", "least_confidence", "el2n_bottom"),
    ),
    "like another": (
        {"selection.selector": "random_tokens", "selection.like": "grand"},
        [
            {"selector": control, "like": like}
            for control in ("random_shares", "random_tokens")
            for like in ("s2l", "high_learnability", "embedding_clusters", "k_center")
        ],
    ),
    "without stability": (
        {"clusters.stability": False},
        each("s2l_official", "prune_then_cluster", "embedding_clusters", "random_shares"),
    ),
    "clusters": (
        {
            "clusters.n_clusters": 3,
            "clusters.max_iter": 50,
            "clusters.tol": 0.001,
            "clusters.random_state": 8,
            "clusters.num_actors": 2,
        },
        each("s2l_official", "prune_then_cluster", "embedding_clusters", "loss_strata", "longest"),
    ),
    "exports": (
        {"selection.export": ["alpaca", "messages"]},
        each("loss_strata", "random_shares", "random_tokens")
        + each("s2l", export=["prompt_response"]),
    ),
    "budgets": (
        {},
        [
            {"selector": selector, "budget": budget}
            for selector in ("s2l", "random", "loss_strata", "facility_location", "k_center")
            for budget in (500, "500", 0.11, "11%", "2M tokens", "1500 tokens")
        ],
    ),
    "seeds": (
        {"seed": 7, "clusters.random_state": 3, "selection.seed": 9},
        each("high_learnability", "k_center", "facility_location", "random_shares", "el2n")
        + each("s2l", "k_center", "random_tokens", seed=10),
    ),
    "bfloat16": (
        {"trajectories.dtype": "bfloat16", "proxy.model.dtype": "bfloat16"},
        each("high_learnability_relative", "least_confidence", "facility_location"),
    ),
    "TF32": ({"trajectories.tf32": True}, each("high_learnability")),
    "chat and models of a hub": (
        {
            "prompt": {"template": "chat", "max_length": 64},
            "target_prompt": {"template": "alpaca", "max_length": 32},
            "proxy.model": {"name": "some-owner/small-model", "revision": "abc"},
            "target.model": {"name": "some-owner/large-model", "dtype": "bfloat16"},
        },
        each("high_learnability", "grand"),
    ),
    "a tokenizer of a hub, and a template of one's own": (
        {
            "prompt": {"template": "custom", "prompt": "Q: {instruction}\nA: "},
            "proxy.model": {"architecture": architecture("llama"), "tokenizer": "some-owner/bpe"},
            "target.model.tokenizer_vocab": 400,
        },
        each("high_learnability", "k_center"),
    ),
    "steps in place of epochs": (
        {
            "proxy.max_steps": 40,
            "proxy.num_checkpoints": None,
            "proxy.checkpoint_every": 10,
            "target.max_steps": 12,
        },
        each("high_learnability", "el2n"),
    ),
    "other trainings": (
        {
            "proxy.epochs": 2.5,
            "proxy.zero_stage": 2,
            "proxy.offload_optimizer": True,
            "proxy.weight_decay": 0.1,
            "proxy.warmup_share": 0.2,
            "target.zero_stage": 1,
            "target.gradient_checkpointing": True,
            "target.max_grad_norm": 0.5,
        },
        each("high_learnability"),
    ),
    "how the work is spread": (
        {
            "proxy.workers": {"num_workers": 2, "cpus_per_worker": 2},
            "proxy.max_workers": 4,
            "proxy.micro_batch_size": 4,
            "proxy.max_failures": 0,
            "proxy.resume_every": 7,
            "target.workers": {"num_workers": 2},
            "target.micro_batch_size": 5,
            "trajectories.workers": {"num_workers": 2},
            "trajectories.max_workers": 3,
            "trajectories.tokens_per_batch": 1000,
            "clusters.num_actors": 3,
            "evaluation.targets_at_once": 2,
            "evaluation.workers": {"num_workers": 2, "gpus_per_worker": 4},
        },
        each("high_learnability", "embedding_clusters"),
    ),
    "scored while training": ({"trajectories.while_training": True}, each("el2n")),
    "evaluation of answers": (
        {
            "evaluation.files": {"held": "held.jsonl"},
            "evaluation.answers": {"exam": "exam.jsonl"},
            "evaluation.answers_at_most": 10,
            "evaluation.max_new_tokens": 8,
            "evaluation.answer_marker": "so:",
            "evaluation.split": "validation",
            "evaluation.seeds": [3, 4],
        },
        [],
    ),
    "what a comparison or a diagnosis asks for": (
        {
            "compare": {
                "selectors": ["grand", "random"], "budgets": ["5%"], "seeds": [1], "trainings": 3,
                "match": ["tokens"], "full": [], "also": ["el2n"], "also_seeds": 1,
                "difference": 0.1,
            },
            "diagnose": {"seeds": [5], "checkpoints": [2], "n_clusters": [2], "gradients": True},
            "report.examples": True,
            "storage.lease_seconds": 30,
        },
        each("grand"),
    ),
    "no target": ({"target": None}, each("random")),
}  # fmt: skip

# name -> changes of BASE that tell of the corpus
CORPORA: dict[str, dict[str, Any]] = {
    "as it is": {},
    "another seed": {"seed": 7},
    "nothing held out": {"corpus.heldout_share": 0},
    "nothing held out, another seed": {"corpus.heldout_share": 0, "seed": 7},
    "more rejected rows": {"corpus.max_rejected_share": 0.5},
    "another number of parts": {"corpus.num_parts": 3},
    "duplicates numbered": {"corpus.duplicates": "number"},
    "columns": {"corpus.columns": {"instruction": "instruction", "source": None}},
    "a source's name": {"corpus.source": "mine"},
    "format": {"corpus.format": "jsonl"},
    "two files": {"corpus.path": ["corpus.jsonl", "more/other.jsonl"]},
    "a folder": {"corpus.path": "more"},
    "a glob": {"corpus.path": "**/*.jsonl"},
}


def rows(count: int = 90) -> list[dict[str, str]]:
    random = Random(5)
    return [
        {
            "instruction": f"zqx{number} " + "say it again, " * random.randrange(3) + "now",
            "output": " ".join(f"zqx{random.randrange(9)}" for _ in range(random.randrange(1, 8))),
            "source": SOURCES[number % 3],
        }
        for number in range(count)
    ]


def write_corpus(folder: Path) -> None:
    """corpus.jsonl, one of its rows without an output, and the questions of exam.jsonl."""
    lines = [*rows(), {"instruction": "a row without an output", "source": "chat"}]
    _write(folder / "corpus.jsonl", lines)
    questions = [{"question": f"zqx{900 + number} now", "answer": str(number)} for number in (3, 7)]
    _write(
        folder / "exam.jsonl", [*questions, {"question": rows()[0]["instruction"], "answer": "1"}]
    )


def _write(path: Path, lines: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
