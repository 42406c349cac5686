"""Golden tests: the expected values are in the JSON files of tests/golden.

They freeze fingerprints, settings, public names, the files of a run directory, and what the
commands print. If a change is intended, update the files and read the difference:

    python -m pytest tests/golden --update-golden    (-m "not slow": without whole runs)
    git diff tests/golden

Internals of the package are asked for in support/golden_seam.py alone.
"""

import dataclasses
import hashlib
import inspect
import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support import golden_seam as seam
from support.golden_cases import BASE, CASES, CORPORA, changed, write_corpus
from support.head import REPOSITORY, environment

import s2l_ray
from s2l_ray.corpus import demo
from s2l_ray.selection.exports.formats import FORMATS

# -- fingerprints


def test_every_stage_is_known_by_the_same_fingerprint(golden):
    found = {}
    for case, (changes, others) in CASES.items():
        config = seam.config_of(changed(changes))
        found[case] = {"the run's own": fingerprints(config)}
        for other in others:
            name = ", ".join(f"{key}={json.dumps(value)}" for key, value in other.items())
            found[case][name] = fingerprints(config, **other)
    used = {
        stage.removeprefix("selections/").rsplit("-seed", 1)[0]
        for selections in found.values()
        for stages in selections.values()
        for stage in stages
    }
    assert set(seam.SELECTOR_NAMES) <= used
    golden("fingerprints", found)


def fingerprints(config, **changes):
    return seam.stage_fingerprints(config, seam.selection_of(config, **changes), "origin")


def test_records_of_a_comparison_are_known_by_the_same_settings(golden):
    changes = {case: changes for case, (changes, _) in CASES.items() if "target" not in changes}
    golden(
        "comparison_marks",
        {case: seam.comparison_mark(seam.config_of(changed(it))) for case, it in changes.items()},
    )


def test_a_corpus_is_known_by_the_same_fingerprint(golden, tmp_path, monkeypatch):
    """By its files' names as they are given, and their content."""
    write_corpus(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more/other.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    monkeypatch.chdir(tmp_path)
    configs = {name: seam.config_of(changed(changes)) for name, changes in CORPORA.items()}
    digest = {"rows": 3, "ids": 17, "bytes": 40}
    golden(
        "corpora",
        {
            name: {
                "files": seam.corpus_origin(config),
                "dataset": seam.corpus_origin(config, digest),
            }
            for name, config in configs.items()
        },
    )


# -- settings and public names


def test_the_settings_are_the_same(golden):
    schema = seam.config_schema()
    golden("config_fields", dict(fields_of(schema, schema["$defs"])))


def fields_of(section, sections, prefix=""):
    """The dotted path of each setting (NAME: one of the user's) -> its type and default."""
    for name, field in section["properties"].items():
        below = []  # the sections in it, and where
        kind = type_of(field, sections, below)
        default = json.dumps(field["default"], sort_keys=True) if "default" in field else "none"
        yield f"{prefix}{name}", f"{kind}; default: {default}"
        for place, inner in below:
            yield from fields_of(inner, sections, f"{prefix}{name}{place}.")


def type_of(node, sections, below, place=""):
    """A type of the JSON schema in one line, without the names of classes."""
    if "$ref" in node:
        below.append((place, sections[node["$ref"].rsplit("/", 1)[1]]))
        return "section"
    told = {key: value for key, value in node.items() if key not in WORDS}
    kind = told.pop("type", "any")
    if "anyOf" in told:
        choices = told.pop("anyOf")
        kind = " | ".join(type_of(choice, sections, below, place) for choice in choices)
    if "enum" in told:
        kind = " or ".join(told.pop("enum"))
    if "items" in told:
        kind += f" of ({type_of(told.pop('items'), sections, below, f'{place}[]')})"
    if isinstance(told.get("additionalProperties"), dict):
        inner = told.pop("additionalProperties")
        kind += f" of ({type_of(inner, sections, below, f'{place}.NAME')})"
    for name, inner in told.pop("patternProperties", {}).items():
        kind += f" of {name} to ({type_of(inner, sections, below, f'{place}.NAME')})"
    return " ".join([kind, *(f"{key}={value}" for key, value in sorted(told.items()))])


WORDS = ("title", "description", "default")


def test_the_public_names_are_the_same(golden):
    selection = s2l_ray.Selection
    public = {name for name in dir(selection) if not name.startswith("_")}
    public |= {field.name for field in dataclasses.fields(selection)}
    golden(
        "public",
        {
            "names": sorted(s2l_ray.__all__),
            "commands": sorted(path.name for path in (REPOSITORY / "jobs").glob("*.py")),
            "select": str(inspect.signature(s2l_ray.select)),
            "rank": str(inspect.signature(s2l_ray.rank)),
            "Selection": sorted(public),
            "KMeans": str(inspect.signature(s2l_ray.KMeans)),
            "KMeans public": sorted(n for n in vars(s2l_ray.KMeans) if not n.startswith("_")),
        }
        | {
            f"KMeans.{name}": str(inspect.signature(getattr(s2l_ray.KMeans, name)))
            for name in ("fit", "predict", "fit_predict", "transform", "score")
            if hasattr(s2l_ray.KMeans, name)
        },
    )


# -- commands that are refused


REFUSED = {
    "a misspelt key": ("select", ["clusters.n_cluster=3"]),
    "a misspelt selector": ("select", ["selection.selector=s2"]),
    "a value of another kind": ("select", ["proxy.epochs=no", "selection.budget=0"]),
    "a value out of bounds": ("select", ["seed=-1", "corpus.heldout_share=1.5"]),
    "settings that do not go together": ("select", ["prompt.template=chat"]),
    "an override that is none": ("select", ["seed"]),
    "no target to tune": ("finetune", ["target=null"]),
    "no target to evaluate": ("evaluate", ["target=null"]),
    "no target to compare": ("compare", ["target=null"]),
    "nothing to evaluate on": ("evaluate", ["corpus.heldout_share=0"]),
    "nothing to evaluate the line on": ("pipeline", ["corpus.heldout_share=0"]),
    "nothing to compare on": ("compare", ["corpus.heldout_share=0"]),
    "a comparison without random": ("compare", ["compare.selectors=[s2l]"]),
    "gradients of no target": ("diagnose", ["target=null", "diagnose.gradients=true"]),
    "a demo corpus nowhere": ("demo_corpus", None),
}


def test_what_is_refused_is_told_as_before(golden, place):
    (place / "list.yaml").write_text("- 1\n")
    (place / "broken.yaml").write_text("a: [1\n")
    (place / "short.yaml").write_text("run_dir: run\n")
    told = {}
    for name, (job, overrides) in REFUSED.items():
        arguments = [] if overrides is None else ["config.yaml", *overrides]
        told[name] = told_by(command(place, job, *arguments), place)
    for file in ("list.yaml", "broken.yaml", "short.yaml", "nowhere.yaml"):
        told[file] = told_by(command(place, "select", file), place)
    golden("refused", told)


def test_a_missing_corpus_is_told_as_before(golden, place, tmp_ray):
    failed = command(place, "select", "config.yaml", "corpus.path=nowhere.jsonl", "run_dir=other",
                     RAY_TMPDIR=str(tmp_ray))  # fmt: skip
    golden("missing_corpus", told_by(failed, place))


def test_the_demo_corpus_is_the_same(golden, place):
    done = command(place, "demo_corpus", "demo.jsonl")
    content = hashlib.sha256((place / "demo.jsonl").read_bytes()).hexdigest()
    golden("demo_corpus", told_by(done, place) | {"sha256": content})


def test_the_examples_of_the_demo_corpus_have_the_same_ids(golden, tmp_path):
    """Runs of every version know them by these."""
    ids = seam.example_ids(demo.write(tmp_path / "demo.jsonl"))
    whole = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
    golden("demo_ids", {"examples": len(ids), "first": ids[:3], "sha256 of all": whole})


# -- run directories


@pytest.fixture(scope="module")
def run_here(local_ray, tmp_path_factory):
    """A folder with a small corpus, and a selection made there by this process."""
    folder = tmp_path_factory.mktemp("golden")
    write_corpus(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        s2l_ray.select(None, seam.config_of(changed(HERE)))
    return folder


HERE = {"selection.export": [*FORMATS]}
# With "s2l" one of each kind of groups, of scores and of details.
KINDS = (
    "s2l_official", "prune_then_cluster", "embedding_clusters", "loss_strata", "random_balanced",
    "random_tokens", "high_learnability", "confidence_curriculum", "grand", "el2n",
    "facility_location", "random", "longest",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_directory_has_the_same_files(golden, run_here):
    golden("run", contents_of(run_here / "run"))


@pytest.mark.slow
def test_the_run_directory_of_other_selectors_has_the_same_files(golden, run_here, monkeypatch):
    monkeypatch.chdir(run_here)
    for selector in KINDS:
        s2l_ray.select(None, seam.config_of(changed({"selection.selector": selector})))
    assert seam.strays(run_here / "run") == []
    golden("run_of_selectors", contents_of(run_here / "run"))


@pytest.mark.slow
def test_the_run_directory_of_all_commands_has_the_same_files(golden, jobs):
    assert seam.strays(jobs[0] / "run") == []
    golden("run_of_commands", contents_of(jobs[0] / "run"))


def contents_of(run):
    """The finished stages by their fingerprints, what is in some, and the files by patterns: their
    columns or keys."""
    stages = sorted(str(path.parent.relative_to(run)) for path in run.rglob("manifest.json"))
    files = {}
    for path in run.rglob("*"):
        if path.is_file():
            files.setdefault(pattern_of(path.relative_to(run)), set()).add(shape_of(path))
    return {
        "stages": stages,
        "rows": {stage: mark_of_rows(run / stage) for stage in stages if stage.startswith(EXACT)},
        "files": {pattern: sorted(shapes) for pattern, shapes in files.items()},
    }


# What is the same on every machine: none of it comes from a loss.
EXACT = (
    "corpus/", "tokens/", "selections/random-", "selections/random_balanced-",
    "selections/longest-", "evaluations/corpora/", "evaluations/tokens/",
)  # fmt: skip


def mark_of_rows(folder):
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    tables = [read_table(folder / part["file"]).to_pylist() for part in parts]
    return hashlib.sha256(json.dumps(tables, ensure_ascii=False).encode()).hexdigest()[:16]


def pattern_of(path):
    name = re.sub(r"[0-9a-f]{16}", "HASH", str(path))
    name = re.sub(r"[\w-]+-seed\d+[\w-]*", "ARM", name)
    return re.sub(r"(?<!\d)\d{5,8}(?!\d)", "NUMBER", name)


def shape_of(path):
    """Columns and types of a table, keys of a manifest or another record, or nothing."""
    if path.suffix in (".arrow", ".parquet"):
        return ", ".join(f"{field.name}: {field.type}" for field in read_table(path).schema)
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        stats = {key for part in manifest["parts"] for key in part["stats"]}
        kinds = {"info": manifest["info"], "stats": stats, "parts": (manifest["parts"] or [{}])[0]}
        inside = "; ".join(f"{kind}: {', '.join(sorted(keys))}" for kind, keys in kinds.items())
        return f"{', '.join(sorted(manifest))}; {inside}"
    if path.name == "run.json" or pattern_of(path.name) == "NUMBER.json":
        return ", ".join(sorted(json.loads(path.read_text())))
    if path.suffix == ".json" and path.parent.name == "report":
        record = json.loads(path.read_text())
        return ", ".join(sorted(record[0] if isinstance(record, list) else record))
    if path.suffix == ".jsonl":
        return ", ".join(json.loads(path.read_text().splitlines()[0]))
    return ""


def read_table(path):
    return pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()


# -- what the commands say


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus and the configuration of the commands."""
    folder = tmp_path_factory.mktemp("commands")
    write_corpus(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(BASE))
    return folder


ANSWERS = ("evaluation.answers={exam: exam.jsonl}", "evaluation.max_new_tokens=4",
           "evaluation.answer_marker=zqx1")  # fmt: skip
JOBS = {
    "select": ("select",),
    "select again": ("select",),
    "select another budget": ("select", "selection.budget=15", "selection.export=[alpaca]"),
    "finetune": ("finetune",),
    "evaluate": ("evaluate", *ANSWERS),
    "pipeline": ("pipeline", "evaluation.baselines=[random, longest]"),
    "compare": (
        "compare", "compare.selectors=[s2l, random]", "compare.budgets=[15]", "compare.seeds=[42]",
        "compare.worth=[]",
    ),
    "diagnose": (
        "diagnose", "diagnose.seeds=[]", "diagnose.checkpoints=[2]", "diagnose.n_clusters=[4]",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def jobs(place, tmp_ray):
    """Every command in one run directory: the folder, and what each said, did and found."""
    told = {}
    for name, (job, *overrides) in JOBS.items():
        done = command(place, job, "config.yaml", *overrides, RAY_TMPDIR=str(tmp_ray))
        assert done.returncode == 0, f"{name}: {done.stderr}"
        told[name] = told_by(done, place)
        times = json.loads((place / "run/run.json").read_text())["times"]
        for kind, reused in (("made", False), ("found", True)):
            told[name][kind] = [each["stage"] for each in times if each["reused"] is reused]
    return place, told


@pytest.mark.slow
def test_the_commands_say_and_do_the_same(golden, jobs):
    golden("commands", jobs[1])


def command(folder, name, *arguments, **env):
    """One of jobs/, in a folder of ours: the corpus is known by its path too."""
    return subprocess.run(
        [sys.executable, REPOSITORY / f"jobs/{name}.py", *arguments],
        cwd=folder, env=environment(**env), text=True, capture_output=True, timeout=300,
    )  # fmt: skip


def told_by(done, folder):
    """Exit status and lines; where the command succeeded, without what differs from run to run, and
    of stderr the lines about the run alone."""
    lines = {"stdout": done.stdout.splitlines(), "stderr": done.stderr.splitlines()}
    for name, found in lines.items():
        found = [line.replace(str(folder), "FOLDER") for line in found]
        found = [re.sub(rf"\S*python {REPOSITORY}", "python REPOSITORY", line) for line in found]
        if not done.returncode:
            found = [plain_line(line) for line in found]
        lines[name] = found
    if not done.returncode:
        lines["stderr"] = [line for line in lines["stderr"] if line.startswith("[run] ")]
    return {"exit": done.returncode} | lines


def plain_line(line):
    line = re.sub(r"[0-9a-f]{16}", "HASH", line)
    line = re.sub(r"finished in \d.*", "finished in TIME", line)
    line = re.sub(r"[+−-]?\d[\d,]*\.\d+(e[+-]\d+)?", "NUMBER", line)
    line = re.sub(r"(NUMBER|\d+)%", "SHARE%", line)
    # What a sentence says after its first number may depend on it, and that on the machine.
    return re.sub(r"(NUMBER|SHARE%).*\.$", r"\1 …", line)
