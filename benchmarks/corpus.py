"""Rates of the corpus and tokens stages, beside `datasets`, pyarrow and the bare tokenizer.

    python benchmarks/corpus.py CORPUS.jsonl

The rows of the JSON lines are repeated, with a number put into each instruction, until there are
`--rows` of them. Each way runs in processes of its own and on the same files. Its seconds include
importing its packages and starting Ray or worker processes, except that the texts for
`datasets.map` and the tokenizer alone are made before. The best of `--rounds` is shown. All files
are in the page cache.

- `s2l-ray`, corpus: rows read, checked, named by content, spread over parts, and committed.
- `datasets.load_dataset`: rows in its Arrow cache, which is empty at first.
- `pyarrow`: rows in memory, with as many threads as CPUs.
- `s2l-ray`, tokens: the committed corpus as committed tokens of the alpaca prompt, with a
  byte-level BPE trained on the corpus.
- `datasets.map`: the same texts through the same tokenizer as `transformers` loads it, in one
  process per CPU; from a table in memory.
- `tokenizer alone`: `encode_batch_fast` of the same texts, with as many threads as CPUs.
- `without start, s`: of s2l-ray, without its imports and the start of Ray; the start of Ray's
  workers is in it.
- `CPU s`: CPU time of all processes of the way, which neighbours on the machine disturb less.
- `driver MiB`: how much the peak memory of the process that the user starts grew during the stage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

PROMPT = "alpaca"
CPUS = len(os.sched_getaffinity(0))

# -- ways; each runs in a process of its own, in a folder with what `prepare` made


def corpus(folder: Path, form: str) -> dict[str, float]:
    from s2l_ray.config import CorpusConfig
    from s2l_ray.corpus.ingest import ingest
    from s2l_ray.execution.connect import connect
    from s2l_ray.execution.machine import peak_memory
    from s2l_ray.store import Store

    connect()
    before, began = peak_memory(), time.perf_counter()
    config = CorpusConfig(path=str(folder / f"rows.{form}"))
    with TemporaryDirectory(dir=folder) as run:
        rows = ingest(Store(run), config, folder="corpus/a", fingerprint="a").rows
        took = time.perf_counter() - began
    return {"rows": rows, "stage seconds": took, "memory": peak_memory() - before}


def load_dataset(folder: Path, form: str) -> dict[str, float]:
    import datasets

    kind = {"jsonl": "json"}.get(form, form)
    file = str(folder / f"rows.{form}")
    with TemporaryDirectory(dir=folder) as cache:
        data = datasets.load_dataset(kind, data_files=file, split="train", cache_dir=cache)
        return {"rows": len(data)}


def read_pyarrow(folder: Path, form: str) -> dict[str, float]:
    import pyarrow.json
    import pyarrow.parquet

    read = {"jsonl": pyarrow.json.read_json, "parquet": pyarrow.parquet.read_table}[form]
    return {"rows": read(folder / f"rows.{form}").num_rows}


def tokens(folder: Path, form: str) -> dict[str, float]:
    from s2l_ray.config import PromptConfig
    from s2l_ray.corpus.tokenization import tokenize
    from s2l_ray.execution.connect import connect
    from s2l_ray.execution.machine import peak_memory
    from s2l_ray.store import Store

    connect()
    before, began = peak_memory(), time.perf_counter()
    store = Store(folder / "run")
    examples = store.manifest("corpus/a")
    assert examples is not None
    with TemporaryDirectory(dir=folder / "run") as stage:
        rows = tokenize(
            store, examples, tokenizer_folder="tokenizer", prompt=PromptConfig(template=PROMPT),
            folder=Path(stage).name, fingerprint="a",
        ).rows  # fmt: skip
        took = time.perf_counter() - began
    return {"rows": rows, "stage seconds": took, "memory": peak_memory() - before}


def datasets_map(folder: Path, form: str) -> dict[str, float]:
    import datasets
    from transformers import AutoTokenizer

    data = datasets.Dataset.from_dict(texts_of(folder))
    began = time.perf_counter()  # making the texts is not the tokenizer's work
    tokenizer = AutoTokenizer.from_pretrained(folder / "run/tokenizer")

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        prompts, answers = (
            tokenizer(batch[name], add_special_tokens=False)["input_ids"] for name in batch
        )
        end = [tokenizer.eos_token_id]
        pairs = [(p, a + end) for p, a in zip(prompts, answers, strict=True)]
        return {
            "input_ids": [(p + a)[:512] for p, a in pairs],
            "loss_mask": [([False] * len(p) + [True] * len(a))[:512] for p, a in pairs],
        }

    with TemporaryDirectory(dir=folder) as cache:
        found = data.map(
            encode, batched=True, num_proc=CPUS, remove_columns=data.column_names,
            cache_file_name=f"{cache}/tokens.arrow",
        )  # fmt: skip
        return {"rows": len(found), "seconds": time.perf_counter() - began}


def tokenizer_alone(folder: Path, form: str) -> dict[str, float]:
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    texts, began = texts_of(folder), time.perf_counter()
    tokenizer = Tokenizer.from_file(str(folder / "run/tokenizer/tokenizer.json"))
    count = len(texts["prompt"])
    for first in range(0, count, 10_000):
        for column in texts.values():
            tokenizer.encode_batch_fast(column[first : first + 10_000], add_special_tokens=False)
    return {"rows": count, "seconds": time.perf_counter() - began}


WAYS: dict[str, tuple[str, str, Callable[[Path, str], dict[str, float]]]] = {
    "corpus": ("corpus", "s2l-ray", corpus),
    "load_dataset": ("corpus", "datasets.load_dataset", load_dataset),
    "pyarrow": ("corpus", "pyarrow", read_pyarrow),
    "tokens": ("tokens", "s2l-ray", tokens),
    "datasets_map": ("tokens", "datasets.map", datasets_map),
    "tokenizer_alone": ("tokens", "tokenizer alone", tokenizer_alone),
}

# -- what the ways read


def texts_of(folder: Path) -> dict[str, list[str]]:
    """The texts that the tokens stage tokenizes, from the committed corpus."""
    from s2l_ray.corpus.templates import TEMPLATES
    from s2l_ray.store import Store

    store = Store(folder / "run")
    examples = store.manifest("corpus/a")
    assert examples is not None
    found: dict[str, list[str]] = {"prompt": [], "answer": []}
    for part in examples.parts:
        for turns in store.read_part("corpus/a", part, ["turns"])["turns"].to_pylist():
            prompt = TEMPLATES[PROMPT][0].replace("{instruction}", turns[0]["text"])
            found["prompt"].append(prompt)
            found["answer"].append(turns[-1]["text"])
    return found


def prepare(source: str, count: int, folder: Path, vocabulary: int) -> None:
    """Write rows.jsonl and rows.parquet, and a run with the corpus and its tokenizer."""
    import pyarrow.json
    import pyarrow.parquet

    from s2l_ray.config import CorpusConfig, ModelConfig
    from s2l_ray.corpus.ingest import ingest
    from s2l_ray.corpus.tokenizer import prepare_tokenizer
    from s2l_ray.execution.connect import connect
    from s2l_ray.store import Store

    rows = []
    with open(source, "rb") as lines:  # str.splitlines would also split at U+2028
        for line in lines:
            with suppress(ValueError):
                row = json.loads(line)
                if all(isinstance(row.get(n), str) and row[n] for n in ("instruction", "output")):
                    rows.append(row)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            again, place = divmod(number, len(rows))
            row = rows[place]
            if again:
                row = row | {"instruction": f"{row['instruction']} ({again})"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    table = pyarrow.json.read_json(folder / "rows.jsonl")
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=100_000)
    connect()
    store = Store(folder / "run")
    config = CorpusConfig(path=str(folder / "rows.parquet"))
    examples = ingest(store, config, folder="corpus/a", fingerprint="a")
    model = ModelConfig(architecture={"model_type": "gpt_neox"}, tokenizer_vocab=vocabulary)
    prepare_tokenizer(store, model, examples, folder="tokenizer")


def cpu_seconds() -> float:
    """CPU time of this process and of all below it, such as Ray's; those that ended count too."""
    import psutil

    me = psutil.Process()
    times = [process.cpu_times() for process in [me, *me.children(recursive=True)]]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def outcome(words: list[str]) -> dict[str, Any]:
    """Run this script with the words in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="JSON lines with instruction and output")
    parser.add_argument("--rows", type=int, nargs="+", default=[28_930, 1_000_000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--formats", nargs="+", choices=("jsonl", "parquet"),
                        default=["jsonl", "parquet"])  # fmt: skip
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="keep the files here (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FORMAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        way, form = arguments.one
        folder = Path(arguments.folder)
        if way == "prepare":
            prepare(arguments.corpus, arguments.rows[0], folder, arguments.vocabulary)
        else:
            began = time.perf_counter()
            found = WAYS[way][2](folder, form)
            took = {"seconds": time.perf_counter() - began}
            print(json.dumps(took | found | {"cpu": cpu_seconds()}))
        return

    from benchmarks import machine

    rows = []
    with TemporaryDirectory() as temporary:
        for count in arguments.rows:
            folder = Path(arguments.folder or temporary, str(count))
            words = [arguments.corpus, "--folder", str(folder)]
            if not (folder / "run/tokenizer/tokenizer.json").exists():
                folder.mkdir(parents=True)
                more = ["--rows", str(count), "--vocabulary", str(arguments.vocabulary)]
                outcome([*words, *more, "--one", "prepare", "-"])
            for way in arguments.ways:
                stage, name, _ = WAYS[way]
                for form in arguments.formats if stage == "corpus" else [""]:
                    runs = [outcome([*words, "--one", way, form]) for _ in range(arguments.rounds)]
                    best = min(runs, key=lambda run: run["seconds"])
                    assert best["rows"] <= count
                    rows.append(
                        {"stage": stage, "way": name, "format": form, "rows": int(best["rows"]),
                         "seconds": best["seconds"], "rows/s": best["rows"] / best["seconds"],
                         "without start, s": best.get("stage seconds"), "CPU s": best["cpu"]}
                        | ({"driver MiB": best["memory"] / 2**20} if "memory" in best else {})
                    )  # fmt: skip
                    print(rows[-1], runs, file=sys.stderr, flush=True)
    print(machine.table(rows, ["stage", "way", "format", "rows", "seconds", "rows/s",
                               "without start, s", "CPU s", "driver MiB"]))  # fmt: skip
    machine.write(arguments.json, vars(arguments), rows)


if __name__ == "__main__":
    main()
