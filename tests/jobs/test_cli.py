"""The command line: its help, its exit statuses, and what it does not import."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.head import REPOSITORY, command, environment
from support.runs import settings

from s2l_ray import __version__, cli
from s2l_ray.commands import COMMANDS, Command
from s2l_ray.config import RunConfig, load, schema
from s2l_ray.evaluation import lm_eval
from s2l_ray.execution.job import JOB_CONFIG

# jobs/inspect.py and jobs/gc.py would hide modules of the standard library from the other jobs.
NO_JOBS = ("inspect", "gc")
AS_JOBS = {n: each for n, each in COMMANDS.items() if " " not in n and n not in NO_JOBS}
RUNS = [name for name, each in COMMANDS.items() if each.takes in ("run", "evaluate")]


@pytest.fixture
def s2l_ray(capsys, monkeypatch):
    """Call the command as `python -m s2l_ray.cli`: its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", [cli.__file__])

    def call(*arguments):
        status = 0
        try:
            cli.main([*map(str, arguments)])
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def help_of(s2l_ray):
    def text(name):
        status, out, _ = s2l_ray(*name.split(), "--help")
        assert status == 0
        return out

    return text


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    made = settings(folder / "run", corpus__path="demo")
    data = made.model_dump(mode="json", exclude_unset=True)
    (folder / "my.yaml").write_text(yaml.safe_dump(data))
    return folder / "my.yaml"


def test_the_list_of_commands_says_what_each_is_for(s2l_ray):
    _, text, _ = s2l_ray("--help")
    for name, each in AS_JOBS.items():
        summary = each.work.__doc__.splitlines()[0]
        assert re.search(rf"^    {name}\s+{summary[:20]}", text, re.M), name


def test_a_harness_that_is_not_installed_is_named_before_anything_runs(
    s2l_ray, config, monkeypatch
):
    monkeypatch.setattr(lm_eval.importlib.util, "find_spec", lambda name: None)
    status, out, said = s2l_ray("evaluate", config, "--lm-eval", "gsm8k")
    assert (status, out) == (1, "") and not (config.parent / "run").exists()
    assert "--lm-eval: lm-eval is not installed; install the extra 'lm-eval'" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_what_a_command_reads_writes_and_an_example(name, help_of, config):
    text = help_of(name)
    makes_stages = COMMANDS[name].takes in ("run", "evaluate", "examples")
    for label in ["Prints"] + ["Reads", "Writes"] * makes_stages:
        assert re.search(rf"^{label}: ", text, re.M), label
    (example,) = re.findall(r"^Example:  s2l-ray (.+)", text, re.M)
    assert example.startswith(name + " ")
    if COMMANDS[name].takes in ("run", "evaluate", "settings"):
        given, *overrides = shlex.split(example.removeprefix(name))
        assert given == "my.yaml"
        load(config, overrides)  # refuses a key that no longer exists
    assert max(map(len, COMMANDS[name].work.__doc__.splitlines())) <= 84


@pytest.mark.parametrize("name", RUNS)
def test_help_names_fields_that_exist(name):
    for section, field in re.findall(r"\b([a-z_]+)\.([a-z_]+)\b", COMMANDS[name].work.__doc__):
        if section in RunConfig.model_fields and field not in ("html", "json"):
            assert field in type(getattr(BARE, section)).model_fields, f"{section}.{field}"


BARE = settings("run", losses={"path": "losses"})  # every section


@pytest.mark.parametrize("name", AS_JOBS)
def test_a_job_has_the_help_of_its_command(name, help_of, monkeypatch, capsys):
    expected = help_of(name)
    job = f"jobs/{name.replace('-', '_')}.py"
    monkeypatch.setattr(sys, "argv", [job, "--help"])
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "jobs"), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / job), run_name="__main__")
    assert not ended.value.code
    usage, text = expected.replace(f"s2l-ray {name}", f"python {job}").split("\n\n", 1)
    found_usage, found = capsys.readouterr().out.split("\n\n", 1)
    assert found == text
    assert found_usage.split() == usage.split()


def test_each_job_is_a_command():
    jobs = {path.stem.replace("_", "-") for path in (REPOSITORY / "jobs").glob("*.py")}
    assert jobs == set(AS_JOBS)


def test_version(s2l_ray):
    assert s2l_ray("--version") == (0, f"s2l-ray {__version__}\n", "")


def test_no_command_is_a_fault_of_the_command_line(s2l_ray):
    status, out, said = s2l_ray()
    assert status == 2 and "COMMAND" in said and not out


def test_a_faulty_configuration_is_refused_as_by_the_job(config, s2l_ray):
    job = command("select", config, "clusters.n_cluster=3")
    assert s2l_ray("select", config, "clusters.n_cluster=3") == (2, "", job.stderr)
    assert job.returncode == 2 and "clusters.n_cluster: unknown key" in job.stderr


def test_the_demo_corpus_is_written_and_its_path_printed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "s2l_ray.cli", "demo-corpus", tmp_path / "new/corpus.jsonl"],
        cwd=REPOSITORY, env=environment(), text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/new/corpus.jsonl\n", done.stderr
    assert len((tmp_path / "new/corpus.jsonl").read_text().splitlines()) == 6005


def test_config_show_is_the_configuration_with_sources(config, s2l_ray, tmp_path):
    overrides = [
        "seed=7",
        "proxy.learning_rate=2e-5",
        "prompt={template: custom, prompt: \"a # b: {instruction}\\n\\tcafé 'é' \\u2028\"}",
        "evaluation.files={test.v1: '#x.jsonl', exam: 'a: b'}",
        "diagnose.proxies={a.b: {name: 'no', revision: '007'}}",
        "selection.budget=2M tokens",
        'corpus.path=["a, b: [c]", "two\\nlines"]',
    ]
    status, text, said = s2l_ray("config", "show", config, *overrides)
    assert (status, said) == (0, "")
    lines = [re.sub(r"\s+", " ", line.strip()) for line in text.splitlines()]
    assert "seed: 7 # override" in lines
    assert f"name: tiny # {config}" in lines
    assert "test.v1: '#x.jsonl' # override" in lines
    assert "max_iter: 300 # default" in lines
    (tmp_path / "shown.yaml").write_text(text)
    assert load(tmp_path / "shown.yaml") == load(config, overrides)


def test_config_show_refuses_a_faulty_configuration(config, s2l_ray):
    status, text, said = s2l_ray("config", "show", config, "seed=-1")
    assert (status, text) == (2, "")
    assert said == "override: seed: expected a number greater than or equal to 0, got -1\n"


def test_config_schema_is_the_schema(s2l_ray):
    status, text, _ = s2l_ray("config", "schema")
    assert status == 0 and json.loads(text) == schema()


def test_a_demo_corpus_nowhere_is_refused(s2l_ray):
    assert s2l_ray("demo-corpus") == ("usage: s2l-ray demo-corpus PATH.jsonl", "", "")


def test_a_corpus_that_cannot_be_written_is_one_line(tmp_path, s2l_ray):
    (tmp_path / "file").touch()
    status, _, said = s2l_ray("demo-corpus", tmp_path / "file/corpus.jsonl")
    assert status == 1 and said.startswith("error: ")
    assert said.count("\n") == 1 and str(tmp_path / "file") in said


@pytest.mark.parametrize("statement", [
    "import s2l_ray.config",
    "from s2l_ray.cli import main; main(['--help'])",
    "from s2l_ray.cli import main; main(['--version'])",
    "from s2l_ray.cli import main; main(['compare', '--help'])",
    "from s2l_ray.cli import main; main(['config', 'show', 'configs/demo.yaml'])",
])  # fmt: skip
def test_nothing_heavy_is_imported(statement):
    imported = imported_by(statement)
    assert not imported & {"numpy", "ray", "torch", "pyarrow", "transformers"}


def test_a_driver_that_reuses_everything_imports_only_what_it_uses():
    names = "comparison, diagnosis, run, subset, targets"
    imported = imported_by(
        f"from s2l_ray.pipeline import {names}; from s2l_ray.report import gather"
    )
    assert "ray" in imported
    assert not imported & {"torch", "transformers", "sklearn", "scipy.stats", "ray.train"}


def imported_by(statement):
    code = f"import atexit, sys\natexit.register(lambda: print(*sys.modules))\n{statement}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY, env=environment(), text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    imported = set(done.stdout.splitlines()[-1].split())
    assert "s2l_ray" in imported
    return imported


@pytest.mark.parametrize("error, status, said", [
    (ValueError("budget: 3"), 1, "error: budget: 3\n"),
    (OSError("disk: full"), 1, "error: disk: full\n"),
    (KeyboardInterrupt(), 130, "stopping\nstopped\n"),
])  # fmt: skip
def test_an_error_that_a_user_can_fix_has_no_traceback(monkeypatch, s2l_ray, error, status, said):
    monkeypatch.setitem(COMMANDS, "broken", raises(error))
    found, _, text = s2l_ray("broken", "path")
    assert found == status and text.startswith(said)


@pytest.fixture
def activated(monkeypatch):
    """`python` is this one."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))


def test_a_stopped_run_says_how_to_continue(monkeypatch, s2l_ray, config, activated):
    monkeypatch.setitem(COMMANDS, "broken", raises(KeyboardInterrupt(), takes="run"))
    status, _, text = s2l_ray("broken", config, "seed=7", "--quiet", "selection.budget=2M tokens")
    assert status == 130
    typed = f"broken {config} seed=7 --quiet 'selection.budget=2M tokens'"
    typed = f"python -m s2l_ray.cli {typed}"
    assert text == f"stopping\nstopped; to continue, run: {typed}\n"
    monkeypatch.chdir(config.parent)
    monkeypatch.setattr(sys, "executable", str(config.parent / "env/bin/python"))
    _, _, text = s2l_ray("broken", config)
    assert f"run: env/bin/python -m s2l_ray.cli broken {config}\n" in text
    monkeypatch.setenv(JOB_CONFIG, "{}")
    _, _, text = s2l_ray("broken", config)
    assert text.endswith(f"run: ray job submit --working-dir . -- {typed.partition(' seed')[0]}\n")


def test_a_finished_run_says_its_time_and_what_may_follow(monkeypatch, s2l_ray, config, activated):
    then = ("finetune", "evaluate", "diagnose")

    def work(config):
        """Print a result."""
        print("result")

    monkeypatch.setitem(COMMANDS, "done", Command("done", work, "run", False, False, then))
    _, out, text = s2l_ray("done", config, "corpus.heldout_share=0")
    assert out == "result\n"
    finished, *others = text.splitlines()
    assert re.fullmatch(r"\[run\] finished in \d+\.\d s", finished)
    for line, name in zip(others, ("finetune", "diagnose"), strict=True):  # no held-out examples
        typed, _, comment = line.removeprefix("[run] next: ").partition("  # ")
        assert typed == f"python -m s2l_ray.cli {name} {config} corpus.heldout_share=0"
        assert comment == COMMANDS[name].work.__doc__.splitlines()[0]
    _, _, text = s2l_ray("done", config, "target=null")
    assert [line.split()[5] for line in text.splitlines()[1:]] == ["diagnose"]
    assert s2l_ray("done", config, "--quiet") == (0, "result\n", "")
    _, out, text = s2l_ray("done", config, "--json-logs")
    assert out == "result\n"
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["level"] for line in lines} == {"info"} and len(lines) == 4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_options_of_its_output(name, help_of):
    assert "[--quiet | --json-logs]" in " ".join(help_of(name).split()) or name == "demo-corpus"
    assert "--json-logs  " in help_of(name)


def test_an_error_as_json(s2l_ray, config):
    status, _, text = s2l_ray("select", config, "seed=-1", "--json-logs")
    told = json.loads(text)
    assert status == 2 and told["level"] == "error" and "seed: expected a" in told["message"]


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(COMMANDS, "broken", raises(AssertionError("a bug")))
    with pytest.raises(AssertionError, match="a bug"):
        cli.main(["broken", "path"])


def raises(error, takes="path"):
    def work(given):
        """Raise an error."""
        raise error

    return Command("broken", work, takes, False, False)
