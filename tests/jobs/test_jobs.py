"""The commands as a user types them: real processes, and a real head node with tokens."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from support.head import Head, command, free_port
from support.runs import contents_of, rows, settings, stages_run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus file and the configuration of all commands here."""
    folder = tmp_path_factory.mktemp("jobs")
    with open(folder / "corpus.jsonl", "w") as file:
        for row in rows(150):
            file.write(json.dumps(row) + "\n")
    config = settings(
        folder / "run",
        corpus__path=str(folder / "corpus.jsonl"),
        selection__budget=20,
        evaluation__seeds=[0],
    ).model_dump(mode="json", exclude_unset=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def selected(place, tmp_ray):
    """jobs/select.py on this machine, though a Ray that is gone left its address."""
    note = tmp_ray / "ray/ray_current_cluster"
    note.parent.mkdir(exist_ok=True)
    note.write_text(f"127.0.0.1:{free_port()}")
    done = command("select", place / "config.yaml", "name=typed", RAY_TMPDIR=str(tmp_ray))
    note.unlink()
    return done


def last_lines(text):
    return dict(line.split(": ", 1) for line in text.strip().splitlines()[-2:])


@pytest.mark.slow
def test_select_without_a_cluster(selected, place):
    assert selected.returncode == 0, selected.stderr
    assert "Traceback" not in selected.stderr
    # stdout has results alone, and nothing of Ray's.
    lines = dict(line.split(": ", 1) for line in selected.stdout.splitlines())
    assert list(lines) == ["selection", "alpaca", "report"]
    assert Path(lines["selection"], "manifest.json").is_file()
    page = Path(lines["report"])
    assert page == place / "run/report/index.html" and "<title>" in page.read_text()
    recorded = json.loads((place / "run/run.json").read_text())
    assert recorded["config"]["name"] == "typed"  # the override
    # Off the terminal a run says what it did, a few lines a stage.
    told = selected.stderr.splitlines()
    stages = {line.split("]")[0] for line in told if line.startswith("[")}
    assert stages >= {"[tokenize for the proxy", "[score"}
    assert all(line.startswith("[") for line in told), selected.stderr
    assert len(told) < 40
    assert told[0].startswith("[run] ") and "ray_current_cluster: no Ray answers at" in told[0]


def imported_and_said(done):
    """Of a command under -X importtime: the top-level packages imported, and its own lines."""
    lines = done.stderr.splitlines()
    modules = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return {name.split(".")[0] for name in modules}, said


def test_a_misspelt_key_is_refused_before_anything_heavy_is_imported(place):
    refused = command("select", place / "config.yaml", "clusters.n_cluster=3",
                      python=("-X", "importtime"))  # fmt: skip
    assert refused.returncode == 2
    imported, said = imported_and_said(refused)
    assert "s2l_ray" in imported and not imported & {"ray", "torch", "numpy", "pyarrow"}
    assert len(said) == 1 and "clusters.n_cluster: unknown key" in said[0]
    assert "nearest valid name: n_clusters" in said[0]


@pytest.mark.parametrize("name, change, field", [
    ("pipeline", "corpus.heldout_share=0", "corpus.heldout_share"),
    ("evaluate", "corpus.heldout_share=0", "corpus.heldout_share"),
    ("finetune", "target=null", "target"),
])  # fmt: skip
def test_a_command_says_what_its_configuration_lacks(place, name, change, field):
    refused = command(name, place / "config.yaml", change)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and f": {field}: " in refused.stderr


@pytest.mark.parametrize("name, change, start", [
    ("select", "corpus.path=/no/corpus.jsonl", "corpus.path: '/no/corpus.jsonl' matches no file"),
    ("select", "proxy.model={name: /no/model}", "proxy.model.name: '/no/model': there is no such"),
    ("finetune", "target.model={name: /no/model}", "target.model.name: '/no/model': there is no"),
    ("pipeline", "evaluation.files={exam: /no/exam.jsonl}", "evaluation.files: exam: corpus.path:"),
])  # fmt: skip
def test_what_is_missing_is_one_line_before_anything_starts(place, name, change, start):
    failed = command(name, place / "config.yaml", change, f"run_dir={place / 'other/run'}",
                     python=("-X", "importtime"))  # fmt: skip
    assert failed.returncode == 1 and failed.stdout == ""
    imported, said = imported_and_said(failed)
    assert "pyarrow" in imported and not imported & {"ray", "torch", "transformers", "datasets"}
    assert len(said) == 1 and said[0].startswith(f"error: {start}")
    assert not (place / "other").exists()


@pytest.fixture(scope="module")
def head():
    folder = Path(tempfile.mkdtemp(prefix="s2l", dir="/tmp"))
    started = None
    try:
        started = Head(folder)
        yield started
    finally:
        if started is not None:
            started.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_same_job_on_a_cluster_with_tokens(selected, place, head):
    run = place / "run"
    known = contents_of(run, "clusters/", "selections/")
    shutil.rmtree(run / "clusters")
    shutil.rmtree(run / "selections")
    done = head.submit("python", "jobs/select.py", place / "config.yaml", **head.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    printed = [line for line in done.stdout.splitlines() if line[:9] in ("selection", "report: /")]
    lines = last_lines("\n".join(printed))
    assert Path(lines["selection"], "manifest.json").is_file()
    assert Path(lines["report"]).is_file()
    # What was there is used again; the selection is the same on a cluster of another size.
    assert stages_run(run)[0] == ["clusters", "selections/s2l-seed0"]
    assert contents_of(run, "clusters/", "selections/") == known
    # The code went along, the environment and the runs did not.
    (package,) = (head.folder / "ray").glob(
        "session_2*/runtime_resources/working_dir_files/_ray_pkg_*/jobs/select.py"
    )
    package = package.parents[1]
    sent = {path.name for path in package.iterdir()}
    assert {"jobs", "s2l_ray", "configs"} <= sent
    assert not sent & {".venv", "runs", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    assert sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) < 5e6


@pytest.mark.slow
def test_a_job_that_would_lose_its_run_is_refused(place, head):
    done = head.submit("python", "jobs/select.py", place / "config.yaml", "run_dir=runs/lost",
                       **head.env)  # fmt: skip
    assert done.returncode != 0
    assert "error: run_dir: 'runs/lost' is relative" in done.stdout


@pytest.mark.slow
def test_without_the_token_nothing_is_done(place, head):
    wrong = head.folder / "wrong-token"
    wrong.write_text("0" * 64)
    attempts = [
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)},
        {"RAY_AUTH_MODE": "disabled"},
    ]
    for attempt in attempts:
        refused = head.submit("python", "-c", "print('it ran')", **attempt)
        assert refused.returncode != 0
        assert "it ran" not in refused.stdout
        assert "authentication" in (refused.stdout + refused.stderr).lower()


@pytest.mark.slow
def test_the_other_commands_on_that_cluster_by_its_address(selected, place, head):
    """RAY_ADDRESS as one types it; each command goes on from what the others left."""
    env = {"RAY_ADDRESS": head.address} | head.env
    tuned = command("finetune", place / "config.yaml", **env)
    assert tuned.returncode == 0, tuned.stderr
    model = Path(tuned.stdout.strip().removeprefix("model: "))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(model))
    assert [name for name in stages_run(place / "run")[0] if "targets" not in name] == []

    evaluated = command("evaluate", place / "config.yaml", **env)
    assert evaluated.returncode == 0, evaluated.stderr
    made, found = stages_run(place / "run")
    assert made == ["evaluations/tokens/heldout", "evaluations/s2l-seed0/heldout"]
    assert "targets/s2l-seed0" in found
    *by_source, total, macro = evaluated.stdout.splitlines()
    assert [line.split()[1] for line in by_source] == ["chat", "sums", "words"]
    mean = sum(float(line.split()[0]) for line in by_source) / 3
    assert abs(float(macro.split()[0]) - mean) < 1e-3 and macro.endswith("mean over sources")
    assert total.split()[1] == "all," and 0 < float(total.split()[0]) < 12

    planned = command("plan", place / "config.yaml", "--json", "--tokens-per-second=1000")
    told = json.loads(planned.stdout)
    stages = {each["stage"]: each for each in told["stages"]}
    done = {name for name, each in stages.items() if each["state"] == "done"}
    assert done == {"corpus", "tokens", "proxy", "losses", "trajectories", "clusters",
                    "selections/s2l-seed0", "exports/s2l-seed0/alpaca",
                    "targets/s2l-seed0"}  # fmt: skip
    assert {each["state"] for each in stages.values()} == {"done", "to do"}
    assert stages["proxy"]["seconds"] == 0 < stages["targets/random-seed0"]["seconds"]
    assert told["corpus"]["sampled"] == 0  # counts, no estimates


@pytest.mark.slow
def test_a_wrong_address_is_one_line(place):
    for address in (f"127.0.0.1:{free_port()}", "http://127.0.0.1:8265"):
        failed = command("select", place / "config.yaml", RAY_ADDRESS=address)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: RAY_ADDRESS: ") and address in failed.stderr
        assert failed.stderr.count("\n") == 1
