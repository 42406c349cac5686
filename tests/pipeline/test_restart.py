"""A finished run started again: no Ray, nothing heavy imported, nothing written but run.json."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from support.head import REPOSITORY, environment
from support.runs import files_of, rows, settings, stages_run

from s2l_ray import commands

HEAVY = {"torch", "transformers", "sklearn", "scipy.stats", "ray.data", "ray.train", "boto3"}
PROGRAM = """
import atexit, sys
atexit.register(lambda: print(*sys.modules))
sys.argv = ["s2l-ray", *sys.argv[1:]]
from s2l_ray import cli
cli.main()
"""


def again(run_dir, name, *overrides):
    """Start a command where no Ray answers; return how it ended and the modules it imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, str(run_dir.parent / "my.yaml"),
         f"run_dir={run_dir}", *overrides],
        cwd=REPOSITORY, env=environment(RAY_ADDRESS="127.0.0.1:1"), text=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    return done, set(done.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def piped(local_ray, tmp_path_factory):
    """A run as `pipeline` leaves it, of two targets."""
    folder = tmp_path_factory.mktemp("piped")
    file, run_dir = folder / "corpus.jsonl", folder / "run"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(120)))
    small = {"selection__budget": 20, "target__epochs": 1, "evaluation__seeds": [0]}
    more = {"evaluation__targets_at_once": 2, "report__examples": True}
    config = settings(run_dir, corpus__path=str(file), **small, **more)
    data = config.model_dump(mode="json", exclude_unset=True)
    (folder / "my.yaml").write_text(yaml.safe_dump(data))
    commands.COMMANDS["pipeline"].work(config)
    return run_dir


@pytest.mark.slow
def test_a_restart_imports_and_starts_only_what_it_uses(piped):
    before = files_of(piped)
    hardware = json.loads((piped / "run.json").read_text())["hardware"]
    done, imported = again(piped, "pipeline")
    assert done.returncode == 0, done.stderr
    assert not imported & HEAVY
    assert "[run] to do: nothing\n" in done.stderr and "[run] reused: the report\n" in done.stderr
    assert "starting Ray" not in done.stderr
    settings_of_report = {"report/config.yaml", "report/baselines.json"}
    after = files_of(piped)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= settings_of_report
    assert all(before[name][0] == after[name][0] for name in changed)
    made, _ = stages_run(piped)
    record = json.loads((piped / "run.json").read_text())
    assert made == [] and record["hardware"] == hardware


@pytest.mark.slow
def test_select_keeps_the_page_of_pipeline_which_shows_more(piped):
    page = (piped / "report/index.html").read_bytes()
    done, _ = again(piped, "select")
    assert done.returncode == 0 and "[run] reused: the report\n" in done.stderr
    assert (piped / "report/index.html").read_bytes() == page


@pytest.mark.slow
def test_a_page_that_is_gone_or_of_other_settings_is_written_without_ray(piped):
    page = piped / "report/index.html"
    whole = page.read_bytes()
    page.unlink()
    done, _ = again(piped, "pipeline")
    assert done.returncode == 0 and "[run] writing the report\n" in done.stderr
    assert page.read_bytes()[-40:] == whole[-40:]  # it ends with what it shows
    done, _ = again(piped, "pipeline", "name=other")
    assert "[run] writing the report\n" in done.stderr and b"<title>other" in page.read_bytes()


@pytest.mark.slow
def test_what_is_to_be_made_needs_ray(piped, tmp_path):
    copy = shutil.copytree(piped, tmp_path / "run")
    shutil.copy(piped.parent / "my.yaml", tmp_path / "my.yaml")
    done, _ = again(copy, "select", "selection.seed=7")
    assert done.returncode == 1 and "no Ray answers at 127.0.0.1:1" in done.stderr
    assert "[run] to do: selections/s2l-seed7" in done.stderr
