"""Configurations as bad as they come: a ConfigError that names the fault, or the right meaning."""

import datetime
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.config_fields import WHOLE, fields, kinds

from s2l_ray.config import RunConfig, fingerprint, load, parse_budget, validate
from s2l_ray.config.strict_yaml import MAX_DEPTH, MAX_VALUES
from s2l_ray.errors import ConfigError

FIXED = {"derandomize": True, "deadline": None, "database": None}
SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("config") / "run.yaml"


def loaded(file, text, overrides=()):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file, overrides)


def refusal(file, text, overrides=()):
    with pytest.raises(ConfigError) as caught:
        loaded(file, text, overrides)
    for line in str(caught.value).splitlines()[:1]:
        assert line.startswith((f"{file}: ", f"{file} with the override of ", "override"))
    return str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "corpus.path=s3://AKIA:SECRET@bucket/x.jsonl",
        "corpus.path=[a.jsonl, 's3://AKIA:SECRET@bucket/x.jsonl']",
        "evaluation.files={a: 's3://AKIA:SECRET@bucket/x.jsonl'}",
        "evaluation.answers={a: 's3://AKIA:SECRET@bucket/x.jsonl'}",
        "run_dir=s3://AKIA:SECRET@bucket/x",
        "corpus.path='abfs://box:SECRET@account/x.jsonl'",
        "corpus.path=['abfs://box@account/x.jsonl?client_id=1&client_secret=SECRET']",
        "corpus.path='s3://b/x?endpoint_override=https://key:SECRET@host'",
    ],
)
def test_paths_with_credentials_are_refused_and_not_repeated(setting):
    with pytest.raises(ConfigError, match="without credentials") as caught:
        load(SHIPPED[0], [setting])
    assert "SECRET" not in str(caught.value) and "function-after" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["abfss://box@account.example/x.jsonl", "s3://b/x*?region=eu-west-1&scheme=http", "x?y"]
)
def test_paths_without_credentials_are_kept(path):
    assert load(SHIPPED[0], [f"corpus.path='{path}'"]).corpus.path == path


# ---- every field, with every kind of value


ODD = [
    None, True, False, "", "x", "a\0b", "\ud800", "1", -1, 0, 1, 1.5, math.nan, math.inf, -math.inf,
    2**32, 2**63, -(2**63), 10**30, 10**5000, [], [[]], [None], [True], ["x", 3], {}, {"a": 1},
    {1: 2}, datetime.date(2024, 1, 1), b"\xff", "x" * 10**6, {"x"},
]  # fmt: skip


@pytest.mark.parametrize(("path", "annotation"), fields(RunConfig), ids=lambda p: ".".join(p)
                         if isinstance(p, tuple) else "")  # fmt: skip
def test_a_field_takes_its_own_type_or_names_itself(path, annotation):
    expected = kinds(annotation)
    for value in ODD:
        data = validate(WHOLE).model_dump()
        node = data
        for name in path[:-1]:
            node[name] = {} if node[name] is None else node[name]  # a section that may be left out
            node = node[name]
        node[path[-1]] = value
        try:
            config = validate(data)
        except ConfigError as error:
            # A whole section may refuse (two fields that do not fit): it is named instead.
            assert any(".".join(path[:n]) in str(error) for n in range(1, len(path) + 1)) or (
                len(path) <= 2 and "the configuration: " in str(error)
            )
            assert all(len(line) < 1000 for line in str(error).splitlines())
            continue
        taken: Any = config
        for name in path:
            taken = getattr(taken, name)
        if isinstance(value, bool):
            assert bool in expected and taken is value
        if isinstance(taken, float):
            assert math.isfinite(taken)
        if isinstance(value, int | float) and bool not in expected:
            assert taken == value
        if isinstance(value, str) and str in expected:
            assert taken == value
        assert (taken is None) == (value is None)
        # What is taken can be written down and read again.
        assert validate(config.model_dump(mode="json")) == config
        assert len(fingerprint(config)) == 16


# ---- YAML


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_line_given_twice_is_refused_by_name_and_line(path, file):
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        name, _, value = line.partition(":")
        value = value.split("#")[0].strip()
        if (
            line.lstrip().startswith(("#", "- "))
            or not value
            or value.count("{") != value.count("}")
        ):
            continue
        text = "\n".join([*lines[:number], line, *lines[number:]])
        said = refusal(file, text)
        assert f"line {number + 1}: duplicate key {name.strip()!r}" in said


BASE = "run_dir: r\ncorpus: {path: a}\nproxy: {model: {name: m}, num_checkpoints: 4}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 1000, f"nested more than {MAX_DEPTH} deep"),
        ("a: " + "[" * 50 + "]" * 50, f"nested more than {MAX_DEPTH} deep"),
        ("a: &a [*a]", f"nested more than {MAX_DEPTH} deep"),
        ("a: &a {b: *a}", f"nested more than {MAX_DEPTH} deep"),
        (BOMB, f"more than {MAX_VALUES:,} values, aliases expanded"),
        ("seed: 1\nseed: 2", "line 5: duplicate key 'seed'"),
        ('seed: 1\n"seed": 1', "line 5: duplicate key 'seed'"),
        ("clusters: {tol: 1, tol: 2}", "line 4: duplicate key 'tol'"),
        ("selection:\n  - {seed: 1, seed: 2}", "line 5: duplicate key 'seed'"),
        ("a: 2024-13-45", "line 4: expected a value of type timestamp, got '2024-13-45'"),
        ("a: !!timestamp foo", "line 4: expected a value of type timestamp, got 'foo'"),
        ("a: !!int foo", "line 4: expected a value of type int, got 'foo'"),
        ("a: !!int ''", "line 4: expected a value of type int, got ''"),
        ("a: !!float foo", "line 4: expected a value of type float, got 'foo'"),
        ("a: !!bool foo", "line 4: expected a value of type bool, got 'foo'"),
        ("a: 0x_", "line 4: expected a value of type int, got '0x_'"),
        ("a: 0b_", "line 4: expected a value of type int, got '0b_'"),
        ("a: " + "9" * 5000, "expected a value of type int, got"),
        ("a: 0x" + "f" * 5000, "expected a number within 64 bits"),
        (
            "a: 9223372036854775808",
            "line 4: expected a number within 64 bits, got '9223372036854775808'",
        ),
        ('a: "\\ud800"', "line 4: expected Unicode text, got half of a surrogate pair"),
        ("a: !!python/object:os.system x", "expected plain values"),
        ("a: !!python/name:os.system", "expected plain values"),
        ("a: !!binary aGVsbG8=", "expected plain values"),
        ("a: !!set {b}", "expected plain values"),
        ("a: !!omap [b: c]", "expected plain values"),
        ("a: !mine 1", "expected plain values, got the tag '!mine'"),
        ("a: !!str [b]", "not YAML"),
        ("a: !!map [b]", "not YAML"),
        ("a: !!seq {b: c}", "not YAML"),
        ("<<: 3", "not YAML"),
        ("? [a]\n: b", "found unhashable key"),
        ("1: 2", "1: expected keys to be strings, got 1"),
        ("null: 2", "None: expected keys to be strings, got None"),
        ("a: *gone", "undefined alias"),
        ("a: b: c", "not YAML"),
        ("a: 'b", "not YAML"),
        ("a: \x01", "not YAML"),
        ("\x00", "not YAML"),
        ("--- 1", "not YAML"),
        ("%YAML 9.0\n---\na: 1", "not YAML"),
        ("\ta: 1", "not YAML"),
        ("name: 2024-01-01", "name: expected a valid string, got datetime.date(2024, 1, 1)"),
        ("seed: yes", "seed: expected a number, got a boolean (True)"),
        ("evaluation: {seeds: [yes]}", "evaluation.seeds: expected a number, got a boolean (True)"),
        ("evaluation: {files: {../../x: a}}", "evaluation.files.../../x"),
        ("selection: {budget: .nan}", "selection.budget: expected a count"),
        ("selection: {budget: .inf}", "selection.budget: expected a count"),
        ("selection: {budget: " + "9" * 400 + " tokens}", "64 bits; got '999"),
        (
            "clusters: {random_state: -1}",
            "clusters.random_state: expected a number greater than or equal to 0, got -1",
        ),
        ("clusters: {tol: .inf}", "clusters.tol: expected a finite number, got inf"),
    ],
)
def test_yaml_that_is_refused(file, text, message):
    assert message in refusal(file, BASE + text)


def test_what_plain_yaml_allows_is_still_allowed(file):
    text = """
        shared: &w {num_workers: 2, cpus_per_worker: 1}
        run_dir: "a: b"
        corpus: {path: &p [a, b]}
        proxy: {model: {name: m}, num_checkpoints: 4, learning_rate: 2e-5, workers: {<<: *w}}
        trajectories: {workers: *w}
    """.replace("\n        ", "\n").replace("shared: ", "proxy_: ")
    assert "proxy_: unknown key" in refusal(file, text)
    text = text.replace("proxy_: &w {num_workers: 2, cpus_per_worker: 1}\n", "").replace(
        "{<<: *w}", "&w {num_workers: 2}"
    )
    config = loaded(file, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert config.proxy.workers == config.trajectories.workers
    assert (config.run_dir, config.corpus.path) == ("a: b", ["a", "b"])
    merged = text.replace("workers: *w", "workers: {<<: *w, num_workers: 3}")
    assert loaded(file, merged).trajectories.workers.num_workers == 3


MUTATION = st.tuples(
    st.sampled_from(["flip", "drop", "add", "repeat", "cut"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)


@settings(max_examples=150, **FIXED)
@given(path=st.sampled_from(SHIPPED), changes=st.lists(MUTATION, min_size=1, max_size=3))
def test_a_mutated_file_means_what_it_says_or_is_refused(file, path, changes):
    data = bytearray(path.read_bytes())
    for kind, at, byte in changes:
        at %= max(1, len(data))
        if kind == "flip" and data:
            data[at] ^= byte
        elif kind == "drop":
            del data[at : at + byte]
        elif kind == "add":
            data.insert(at, byte)
        elif kind == "repeat":
            data[at:at] = data[at : at + byte]
        else:
            del data[at:]
    try:
        config = loaded(file, bytes(data))
    except ConfigError as error:
        assert str(file) in str(error)
        return
    assert config == RunConfig.model_validate(yaml.safe_load(data.decode()))


def test_a_path_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "gone", f"{tmp_path}/a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path)


# ---- overrides and budgets

NAMES = st.sampled_from(
    ["seed", "clusters", "n_clusters", "corpus", "path", "proxy", "model", "architecture",
     "evaluation", "files", "seeds", "run_dir", "selection", "budget", "", " ", "a", "0", "\0"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        ["", "1", "-1", "yes", "null", "[]", "{}", "{a: 1, a: 2}", ".nan", "2024-99-99", "*x",
         "&x [*x]", "!!int x", "[" * 400, "9" * 5000, "'", "\udcff", "a: b: c", "---", "1e400"]
    ),
    st.text(max_size=10),
)  # fmt: skip


@settings(max_examples=300, **FIXED)
@given(names=st.lists(NAMES, min_size=1, max_size=4), equals=st.booleans(), value=VALUES)
def test_an_override_means_what_it_says_or_is_refused(file, names, equals, value):
    override = ".".join(names) + ("=" if equals else "") + value
    try:
        config = loaded(file, BASE, [override])
    except ConfigError as error:
        # The file alone is valid.
        assert str(error).startswith((f"{file} with the override of ", "override"))
        return
    assert equals or "=" in value
    taken: Any = config
    for name in ".".join(names).strip().split("."):
        taken = taken[name] if isinstance(taken, dict) else getattr(taken, name)
    said = yaml.safe_load(value) if equals else None
    if isinstance(said, str | int | float):
        assert taken == said
    elif said is None:
        assert taken is None


@pytest.mark.parametrize(
    "override",
    ["", "=", "=3", " =3", "seed", ".=1", "..=1", "a..b=1", "seed.=1", ".seed=1",
     ".".join("a" * 3000) + "=1"],
)  # fmt: skip
def test_an_override_of_odd_shape_is_refused(file, override):
    assert refusal(file, BASE, [override]).endswith("expected key.path=value")


@settings(max_examples=300, **FIXED)
@given(
    st.one_of(
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.from_regex(r"\A ?[0-9]{1,30}(\.[0-9]{1,3})? ?[kKMGB%]?( tokens)?\Z"),
        st.text(max_size=8),
        st.booleans(),
        st.none(),
        st.lists(st.integers(), max_size=2),
    )
)
def test_a_budget_is_a_finite_number_in_its_range_or_is_refused(value):
    try:
        kind, number = parse_budget(value)
    except ValueError as error:
        assert type(error) is ValueError and "expected a count" in str(error)
        if type(value) is int:
            assert not 0 < value < 2**63 - 2**10
        if type(value) is float:
            assert not 0 < value <= 1
        return
    assert 0 < number < 2**63
    if isinstance(value, int | float):
        assert kind == ("examples" if isinstance(value, int) else "share")
        assert number == float(value)
    else:
        value = value.removesuffix("tokens")
        digits = float("".join(letter for letter in value if letter in "0123456789."))
        scale = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "%": 0.01}
        digits *= next((scale[letter] for letter in value if letter in scale), 1)
        assert abs(number - digits) <= max(0.51 if kind == "tokens" else 0, 1e-9 * digits)
    if kind == "share":
        assert number <= 1
