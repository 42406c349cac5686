"""The shipped configurations, and what the config module promises to whoever mistypes one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from s2l_ray.analysis.statistics import MIN_UNITS
from s2l_ray.config import (
    CompareConfig,
    PromptConfig,
    RunConfig,
    TrainingConfig,
    fingerprint,
    load,
    parse_budget,
    validate,
)
from s2l_ray.config.evaluation import ENOUGH
from s2l_ray.config.values import parse_interval
from s2l_ray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
PAPER = ["mathinstruct-pythia-410m", "mathinstruct-phi-2", "mathinstruct-phi-3-mini"]


SCRATCH = {"architecture": {"model_type": "llama"}, "tokenizer_vocab": 300}


def small(**changes):
    """The least a run needs; `changes` replaces whole sections."""
    data = {
        "run_dir": "runs/x",
        "corpus": {"path": "a.jsonl"},
        "proxy": {"model": {"name": "m"}, "num_checkpoints": 4},
    }
    return {**data, **changes}


def proxy(**settings):
    return {"model": {"name": "m"}, "num_checkpoints": 4, **settings}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(small()))
    return path


# ---- the shipped files


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_config_loads(path):
    config = load(path)
    assert config.name == path.stem, "the run's name is the file's"
    assert path.read_text().startswith("# "), "begins with what it is and how to run it"


def test_the_paper_configs_are_there():
    assert {*PAPER, "clinical-mimic"} <= {p.stem for p in SHIPPED}


@pytest.mark.parametrize("name", [*PAPER, "clinical-mimic"])
def test_paper_settings(name):
    # Expected values: the authors' configs/pythia-70m-deduped_checkpoints.yml, read by hand.
    config = load(ROOT / "configs" / f"{name}.yaml")
    assert config.proxy.model.name == "EleutherAI/pythia-70m-deduped"
    assert config.prompt.max_length == 512
    assert (config.seed, config.selection.seed, config.clusters.n_clusters) == (42, 42, 100)
    for job in (config.proxy, config.target):
        assert (job.epochs, job.max_steps) == (3, None)
        assert (job.learning_rate, job.warmup_share, job.weight_decay) == (2e-5, 0.03, 0.0)
        assert (job.global_batch_size, job.model.dtype) == (128, "bfloat16")
        assert job.workers.gpus_per_worker == 1


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_six_question_sets_are_asked(name):
    config = load(ROOT / "configs" / f"{name}.yaml")
    assert list(config.evaluation.answers) == [
        "gsm8k", "math", "numglue", "svamp", "mathematics", "simuleq",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_configs_can_take_all_of_an_8_gpu_node(name):
    """By the overrides that the file itself gives."""
    path = ROOT / "configs" / f"{name}.yaml"
    given = re.findall(r"\b((?:proxy|trajectories|target)\.\S+=\d+)", path.read_text())
    config = load(path, [each for each in given if "micro" not in each or "proxy" in each])
    jobs = (config.proxy, config.trajectories, config.target)
    assert [job.workers.num_workers for job in jobs] == [8, 8, 8]
    assert config.proxy.global_batch_size == config.target.global_batch_size == 128


def test_paper_budgets_and_templates():
    chosen = {p.stem: load(p) for p in SHIPPED}
    assert [chosen[n].selection.budget for n in PAPER] == [30_000, 50_000, 131_020]
    assert chosen["mathinstruct-phi-3-mini"].selection.selector == "s2l_official"
    assert [chosen[n].prompt.template for n in PAPER] == ["alpaca"] * 3
    assert [chosen[n].proxy.checkpoint_every for n in PAPER] == [500] * 3
    assert chosen["clinical-mimic"].prompt.template == "radiology"
    assert parse_budget(chosen["clinical-mimic"].selection.budget) == ("share", 0.5)


def test_clinical_report_shows_no_patient_text():
    assert load(ROOT / "configs" / "clinical-mimic.yaml").report.examples is False


# ---- what is refused, and how


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (small(corpous={"path": "x"}), ["corpous: unknown key", "nearest valid name: corpus"]),
        (
            small(proxy=proxy(learning_rat=1e-4)),
            ["proxy.learning_rat: unknown key", "nearest valid name: learning_rate"],
        ),
        (
            small(proxy=proxy(workers={"gpus": 1})),
            ["proxy.workers.gpus: unknown key", "gpus_per_worker"],
        ),
        (
            small(target=proxy(epoch=1)),
            ["target.epoch: unknown key", "nearest valid name: epochs"],
        ),
        (
            small(selection={"selector": "s2l_offical"}),
            ["module:Class, got 's2l_offical'", "nearest valid name: s2l_official"],
        ),
        (
            small(diagnose={"proxies": {"large": {"nam": "m"}}}),
            ["diagnose.proxies.large.nam: unknown key", "nearest valid name: name"],
        ),
    ],
    ids=["section", "in a section", "two deep", "in an optional section", "a choice", "by name"],
)
def test_unknown_name_is_refused_with_the_nearest(data, expected):
    with pytest.raises(ConfigError) as caught:
        validate(data, origin="run.yaml")
    for text in ["run.yaml: ", *expected]:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (small(proxy=proxy(epochs="three")), "proxy.epochs: expected a valid number, got 'three'"),
        (
            small(clusters={"n_clusters": 0}),
            "greater than or equal to 1, got 0",
        ),
        (
            small(clusters={"n_clusters": 2.5}),
            "expected a valid integer, got 2.5",
        ),
        (small(corpus="a.jsonl"), "corpus: expected a mapping, got 'a.jsonl'"),
        (small(run_dir=""), "run_dir: expected a string to have at least 1 character, got ''"),
        (small(name="a/b"), "name: expected a string to match pattern '^[\\w.-]+$', got 'a/b'"),
        (
            small(corpus={"path": "a", "heldout_share": 1.0}),
            "a number less than 1, got 1.0",
        ),
        (
            small(trajectories={"dtype": "float16"}),
            "'bfloat16', got 'float16'",
        ),
        (
            small(evaluation={"seeds": []}),
            "seeds: expected a list to have at least 1",
        ),
        (
            small(prompt={"max_length": 1}),
            "greater than or equal to 2, got 1",
        ),
    ],
)
def test_wrong_value_names_field_and_what_it_has(data, field):
    with pytest.raises(ConfigError, match=re.escape(field)):
        validate(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (small(proxy={"model": {"name": "m"}}), "proxy: set num_checkpoints (2 or more) or"),
        (small(proxy=proxy(num_checkpoints=1)), "must be 2 or more"),
        (small(proxy=proxy(checkpoint_every=5)), "num_checkpoints or checkpoint_every, not both"),
        (small(proxy=proxy(workers={"num_workers": 3})), "multiple of workers.num_workers 3"),
        (small(proxy=proxy(micro_batch_size=48)), "128 must be a multiple of micro_batch_size 48"),
        (small(proxy=proxy(offload_optimizer=True)), "offload_optimizer needs zero_stage"),
        (
            small(proxy=proxy(lora={"quantize": "4bit"}, zero_stage=3, model={"name": "m"})),
            "DeepSpeed cannot partition 4-bit weights: set zero_stage 1 or 2",
        ),
        (
            small(proxy=proxy(lora={"quantize": "4bit", "merge": True}, model={"name": "m"})),
            "lora.merge cannot add adapters to the 4-bit weights of lora.quantize: set merge",
        ),
        (
            small(proxy=proxy(lora={}, model=SCRATCH)),
            "lora needs a pretrained model: set",
        ),
        (
            small(
                proxy=proxy(lora={}, model={"name": "m"}), diagnose={"proxies": {"wide": SCRATCH}}
            ),
            "diagnose.proxies.wide: proxy.lora needs a pretrained model: set name instead",
        ),
        (
            small(proxy=proxy(workers={"gpus_per_worker": 2})),
            "expected 0 or 1 for a training",
        ),
        (
            small(proxy=proxy(workers={"gpus_per_worker": 0.5})),
            "expected 0 or 1 for a training",
        ),
        (
            small(trajectories={"workers": {"gpus_per_worker": 1.5}}),
            "gpus_per_worker: expected a whole number of GPUs above 1, got 1.5",
        ),
        (
            small(trajectories={"tf32": True, "dtype": "bfloat16"}),
            "tf32 needs dtype float32, got bfloat16",
        ),
        (
            small(
                trajectories={"workers": {"gpus_per_worker": 2}},
                target=proxy(num_checkpoints=1),
                diagnose={"gradients": True},
            ),
            "diagnose.gradients needs trajectories.workers with one GPU at most, got",
        ),
        (
            small(target=proxy(num_checkpoints=1, max_steps=9), compare={"full": ["epochs"]}),
            "compare.full: epochs would train as long as a subset does",
        ),
        (
            small(proxy=proxy(zero_stage=0, model={"name": "m", "dtype": "bfloat16"})),
            "zero_stage 0 needs dtype float32",
        ),
        (
            small(proxy=proxy(zero_stage=1, model={"name": "m", "dtype": "bfloat16"})),
            "sum the gradients of 16 micro-batches in bfloat16: raise micro_batch_size to 128",
        ),
        (
            small(trajectories={"workers": {"num_workers": 4}, "max_workers": 2}),
            "max_workers 2 must be at least workers.num_workers 4",
        ),
        (
            small(corpus={"path": "x", "columns": {"output": None}}),
            "output: expected a column name",
        ),
        (small(proxy=proxy(model={})), "either name (pretrained) or architecture"),
        (
            small(proxy=proxy(model={"name": "m", "architecture": {"model_type": "llama"}})),
            "either name (pretrained) or architecture",
        ),
        (small(proxy=proxy(model={"name": "m", "tokenizer": "t"})), "brings its own tokenizer"),
        (
            small(proxy=proxy(model={"architecture": {"model_type": "llama"}})),
            "needs tokenizer or else tokenizer_vocab",
        ),
        (
            small(proxy=proxy(model={"architecture": {"layers": 2}, "tokenizer_vocab": 512})),
            "architecture lacks model_type",
        ),
        (
            small(
                prompt={"template": "chat"},
                proxy=proxy(
                    model={"architecture": {"model_type": "llama"}, "tokenizer_vocab": 512}
                ),
            ),
            "prompt.template chat needs a tokenizer with a chat template",
        ),
        (
            small(
                prompt={"template": "chat"},
                diagnose={
                    "proxies": {
                        "large": {"architecture": {"model_type": "llama"}, "tokenizer_vocab": 512}
                    }
                },
            ),
            "diagnose.proxies.large.tokenizer_vocab trains one without",
        ),
        (small(diagnose={"seeds": [1, 1]}), "diagnose.seeds: has a duplicate entry"),
        (small(diagnose={"gradients": True}, target=None), "diagnose.gradients needs a target"),
        (
            small(
                target=proxy(num_checkpoints=3, keep_checkpoints=2), diagnose={"gradients": True}
            ),
            "target.keep_checkpoints removes all but the last 2: leave out one of the two",
        ),
        (small(prompt={"template": "custom"}), "prompt.prompt: the template custom needs it"),
        (small(prompt={"prompt": "{instruction}"}), "prompt.prompt: the template custom needs it"),
        (small(prompt={"template": "custom", "prompt": "Q:"}), "lacks {instruction}"),
        (
            small(
                prompt={
                    "template": "custom",
                    "prompt": "{instruction}",
                    "prompt_with_input": "{instruction}",
                }
            ),
            "prompt_with_input lacks",
        ),
        (small(evaluation={"seeds": [1, 1]}), "has a duplicate entry"),
        (small(evaluation={"baselines": ["random", "random"]}), "has a duplicate entry"),
        (
            small(evaluation={"baselines": ["el2n"]}),
            "baselines: expected random among them, the baseline of all; got ['el2n']",
        ),
        (
            small(evaluation={"files": {"exam": "a"}, "answers": {"exam": "b"}}),
            "evaluation: answers: the name 'exam' is taken by held-out examples",
        ),
        (
            small(evaluation={"files": {"heldout": "a"}}),
            "evaluation: files: the name 'heldout' is reserved for corpus.heldout_share",
        ),
        (small(compare={"selectors": ["s2l"]}), "expected random among them"),
        (small(compare={"also": ["el2n", "s2l"]}), "compare: also: s2l is already in selectors"),
        (small(compare={"worth": [0.5, 1]}), "compare.worth: 1 is the budget itself"),
        (small(compare={"worth": [0]}), "compare.worth.0: expected a number greater than 0, got 0"),
        (
            small(compare={"shares": {"s2l": ["s2l"]}}),
            "shares: s2l: expected the shares of",
        ),
        (small(compare={"shares": {"random_shares": ["s2l"]}}), "random_shares copies another sel"),
        (small(compare={"equivalent": "1"}), "expected a number above 0, or such as '1%', got"),
        (small(compare={"equivalent": "0%"}), "expected a number above 0, or such as '1%', got"),
    ],
)
def test_impossible_combination_is_refused(data, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        validate(data)


def test_every_fault_has_a_line():
    data = small(clusters={"n_clusters": 0}, selection={"seed": "x"}, oops=1)
    with pytest.raises(ConfigError) as caught:
        validate(data, origin="f.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("f.yaml: ") for line in lines)


def test_missing_settings_are_named():
    with pytest.raises(ConfigError) as caught:
        validate({"corpus": {}})
    text = str(caught.value)
    assert all(
        f"{name}: required, but missing" in text for name in ("run_dir", "corpus.path", "proxy")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not YAML"),
        (b"- a\n", "expected a mapping of settings, got a list"),
        (b"", "expected a mapping of settings, got nothing"),
        (b"\xff", "read"),
    ],
)
def test_file_that_is_no_configuration(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load(tmp_path / "gone.yaml")


# ---- overrides


def test_overrides_reach_nested_settings_and_keep_the_rest(file):
    config = load(
        file,
        [
            "run_dir=s3://bucket/a=b",
            "proxy.workers.num_workers=4",
            "selection.budget=2M tokens",
            "corpus.path=[a.jsonl, b.jsonl]",
            "corpus.columns.output=answer",
            "evaluation.seeds=[3,4]",
            "clusters.stability=false",
            "target.model.name=t",
            "proxy.num_checkpoints=null",
            "proxy.checkpoint_every=10",
        ],
    )
    assert config.run_dir == "s3://bucket/a=b"
    assert config.proxy.workers.num_workers == 4
    assert config.proxy.model.name == "m"
    assert config.selection.budget == "2M tokens"
    assert config.corpus.path == ["a.jsonl", "b.jsonl"]
    assert config.corpus.columns == {"output": "answer"}
    assert config.evaluation.seeds == [3, 4]
    assert config.clusters.stability is False
    assert config.target is not None and config.target.model.name == "t"
    assert (config.proxy.num_checkpoints, config.proxy.checkpoint_every) == (None, 10)


def test_the_last_override_wins(file):
    assert load(file, ["seed=1", "seed=2"]).seed == 2


def test_learning_rate_as_people_write_it(file):
    # YAML reads 2e-5 (no dot) as text.
    assert load(file, ["proxy.learning_rate=2e-5"]).proxy.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("run_dir.deeper=3", "run_dir is not a section"),
        ("corpus.path=[a", "the value is not YAML"),
        ("proxy.workers.num_worker=2", "nearest valid name: num_workers"),
        ("selection.budget=lots", "expected a count"),
    ],
)
def test_bad_override_is_refused(file, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(file, [override])


# ---- budgets


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (1000, ("examples", 1000)),
        (1, ("examples", 1)),
        ("500", ("examples", 500)),
        (0.11, ("share", 0.11)),
        (1.0, ("share", 1.0)),
        ("11%", ("share", 0.11)),
        ("12.5 %", ("share", 0.125)),
        ("100%", ("share", 1.0)),
        ("700 tokens", ("tokens", 700)),
        ("3k tokens", ("tokens", 3_000)),
        ("2M tokens", ("tokens", 2_000_000)),
        ("1.5B tokens", ("tokens", 1_500_000_000)),
        (" 2M tokens ", ("tokens", 2_000_000)),
    ],
)
def test_budget(value, parsed):
    kind, number = parse_budget(value)
    assert (kind, number) == (parsed[0], pytest.approx(parsed[1], rel=1e-12))


@pytest.mark.parametrize(
    "value", [0, -5, 0.0, 1.5, -0.1, "0%", "101%", "0 tokens", "many", "", "2M", "1.5", "-3"]
)
def test_bad_budget(value):
    with pytest.raises(ValueError, match="expected a count"):
        parse_budget(value)
    with pytest.raises(ConfigError, match=r"selection\.budget"):
        validate(small(selection={"budget": value}))


def test_a_boolean_is_no_budget():
    # YAML's `yes`; as a number it would quietly be a budget of one example.
    with pytest.raises(ValueError, match="expected a count"):
        parse_budget(True)
    with pytest.raises(ConfigError, match=r"selection\.budget"):
        validate(small(selection={"budget": True}))


@pytest.mark.parametrize(
    "value, unit, number",
    [
        (500, "steps", 500),
        (1, "steps", 1),
        ("10 min", "seconds", 600),
        ("2h", "seconds", 7200),
        ("0.5 h", "seconds", 1800),
        (" 90 s ", "seconds", 90),
    ],
)
def test_resume_every(value, unit, number):
    config = training(resume_every=value)
    assert parse_interval(config.resume_every) == (unit, number)


@pytest.mark.parametrize("value", [0, -3, 1.5, True, None, "10", "10 minutes", "0 min", "-1 h", ""])
def test_bad_resume_every(value):
    with pytest.raises(ValueError, match=r"resume_every\n.*(a number of steps|a boolean)"):
        training(resume_every=value)


def training(**changes):
    return TrainingConfig.model_validate({"model": small()["proxy"]["model"]} | changes)


def test_fewer_workers_divide_the_batch_into_micro_batches():
    sizes = lambda **how: training(global_batch_size=24, micro_batch_size=2, **how).sizes()  # noqa: E731
    assert sizes(workers={"num_workers": 12}) == [12]
    assert sizes(workers={"num_workers": 12}, min_workers=2) == [12, 6, 4, 3, 2]
    assert sizes(workers={"num_workers": 6}, min_workers=5) == [6]
    bf16 = {"model": small()["proxy"]["model"] | {"dtype": "bfloat16"}, "zero_stage": 1}
    assert sizes(workers={"num_workers": 12}, min_workers=1, **bf16) == [12]  # see _fits
    with pytest.raises(ValueError, match=r"min_workers 3 must not be above workers\.num_workers 2"):
        training(workers={"num_workers": 2}, min_workers=3)


# ---- fingerprints


def test_fingerprint_is_the_same_in_other_processes():
    here = fingerprint(validate(small()), "x", 3)
    code = (
        "from s2l_ray.config import fingerprint, validate\n"
        f"print(fingerprint(validate({small()!r}), 'x', 3))"
    )
    for hash_seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        assert done.stdout.strip() == here
    assert re.fullmatch(r"[0-9a-f]{16}", here)


def test_fingerprint_does_not_depend_on_the_order_of_keys_or_on_written_defaults():
    plain = small()
    turned = {key: plain[key] for key in reversed(plain)}
    spelt = small(prompt={"max_length": 512}, seed=42)
    assert fingerprint(validate(plain)) == fingerprint(validate(turned))
    assert fingerprint(validate(plain)) == fingerprint(validate(spelt))


def test_fingerprint_sees_every_setting():
    changes = [
        "seed=1",
        "corpus.path=b.jsonl",
        "prompt.max_length=256",
        "trajectories.dtype=bfloat16",
    ]
    changes += ["proxy.learning_rate=0.001", "proxy.workers.num_workers=2", "selection.budget=0.5"]
    path = ROOT / "configs" / f"{PAPER[0]}.yaml"
    prints = [fingerprint(load(path)), *(fingerprint(load(path, [c])) for c in changes)]
    assert len(set(prints)) == len(prints)


def test_fingerprint_tells_parts_apart():
    prompt = PromptConfig()
    assert len({fingerprint(prompt, "a"), fingerprint("a", prompt), fingerprint(prompt)}) == 3
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(1) != fingerprint("1")


def test_a_run_is_unchangeable_and_survives_json():
    config = validate(small())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert fingerprint(again) == fingerprint(config)


# ---- a typo costs no import of torch or ray


def test_refusing_a_config_imports_neither_torch_nor_ray(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(small(corpous=1)))
    code = (
        "import sys\n"
        "from s2l_ray.config import load\n"
        "from s2l_ray.errors import ConfigError\n"
        "try:\n"
        "    load(sys.argv[1])\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "heavy = {'torch', 'ray', 'transformers', 'pyarrow', 'numpy', 'deepspeed', 'sklearn'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "nearest valid name: corpus" in done.stdout


def test_newer_fields_of_compare_change_no_fingerprint_at_their_defaults():
    plain = CompareConfig()
    assert plain.settings().keys().isdisjoint(CompareConfig.newer)
    assert CompareConfig(worth=[4, 0.5]).settings()["worth"] == [0.5, 4.0]
    assert CompareConfig(equivalent="1.5%").equivalent == "1.5%"


def test_verdicts_to_correct_for_are_those_of_methods_budgets_and_matches():
    shares = {"random": ["s2l"], "s2l": ["random"]}
    compare = CompareConfig(budgets=[10, 20], match=["examples", "tokens"], shares=shares)
    assert compare.num_tests == 3 * 2 * 2 + 2 * 2  # shares at equal examples alone
    also = compare.model_copy(update={"also": ["el2n"], "also_seeds": 6})
    assert also.num_tests == 4 * 2 * 2 + 2 * 2
    assert ENOUGH == MIN_UNITS
