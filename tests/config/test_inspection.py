"""The schema of configuration files, and where each value of one comes from."""

import json
from pathlib import Path
from typing import get_args

import pytest

from s2l_ray.config import RunConfig, Section, load, resolve, schema
from s2l_ray.errors import ConfigError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))
TEXT = """
run_dir: runs/x
corpus: {path: a.jsonl, columns: {source: null}}
proxy: {model: {architecture: {model_type: llama, layers: 2}, tokenizer_vocab: 300}, num_checkpoints: 4}
target_prompt: {}
evaluation: {files: {exam: e.jsonl, test.v1: t.jsonl}}
"""  # noqa: E501


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    return path


def sources(file, *overrides):
    return {each.key: (each.value, each.source) for each in resolve(file, overrides)}


def test_each_value_is_told_with_its_source(file):
    found, origin = sources(file, "seed=7", "proxy.model.architecture.layers=3"), str(file)
    assert found["run_dir"] == ("runs/x", origin)
    assert found["seed"] == (7, "override")
    assert found["name"] == ("run", "default")
    assert found["corpus.columns.source"] == (None, origin)
    assert found["proxy.model.architecture.model_type"] == ("llama", origin)
    assert found["proxy.model.architecture.layers"] == (3, "override")
    assert found["proxy.workers.num_workers"] == (1, "default")
    assert found["evaluation.files.test.v1"] == ("t.jsonl", origin)
    assert found["evaluation.answers"] == ({}, "default")
    assert found["target"] == (None, "default")
    assert found["target_prompt.max_length"] == (512, "default")


def test_an_override_replaces_a_whole_section(file):
    found = sources(file, "evaluation.files={new: n.jsonl}", "corpus={path: b}", "target_prompt=")
    assert found["evaluation.files.new"] == ("n.jsonl", "override")
    assert "evaluation.files.exam" not in found
    assert found["corpus.path"] == ("b", "override")
    assert found["corpus.columns"] == ({}, "default")
    assert found["target_prompt"] == (None, "override")
    assert sources(file, "seed=1", "seed=2")["seed"] == (2, "override")
    # What the file gives again below an override is an override's too.
    found = sources(file, "corpus.columns={}", "corpus.columns.input=context")
    assert found["corpus.columns.input"] == ("context", "override")
    assert "corpus.columns.source" not in found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_resolved_values_are_those_of_load(path):
    overrides = ["seed=5", "clusters.n_clusters=7"]
    whole = {}
    for each in resolve(path, overrides):
        node, [*above, last] = whole, each.key.split(".")
        for name in above:
            node = node.setdefault(name, {})
        node[last] = each.value
    assert whole == load(path, overrides).model_dump(mode="json")


def test_a_configuration_that_is_refused_is_not_resolved(file):
    with pytest.raises(ConfigError, match=r"clusters\.n_cluster: unknown key"):
        resolve(file, ["clusters.n_cluster=7"])
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve(file.parent / "gone.yaml")


def test_the_schema_is_json_and_has_every_section():
    found = json.loads(json.dumps(schema()))
    assert found["$schema"].startswith("https://json-schema.org/")
    assert {"corpus", "proxy", "run_dir"} == set(found["required"])
    assert found["additionalProperties"] is False
    assert "n_clusters" in found["$defs"]["ClustersConfig"]["properties"]


def sections(section, found):
    """The section and all below it, each once."""
    if section not in found:
        found.append(section)
        for info in section.model_fields.values():
            for kind in (info.annotation, *get_args(info.annotation)):
                if isinstance(kind, type) and issubclass(kind, Section):
                    sections(kind, found)
    return found


@pytest.mark.parametrize("section", sections(RunConfig, []), ids=lambda each: each.__name__)
def test_every_field_has_a_description(section):
    assert section.__doc__
    for name, info in section.model_fields.items():
        text = info.description
        assert text and text[0] == text.lstrip()[0] and text.endswith("."), name
        assert "  " not in text and text.count("`") % 2 == 0, name
    # In the schema too, the sections' own included.
    found = schema()
    properties = found if section is RunConfig else found["$defs"][section.__name__]
    assert all(each.get("description") for each in properties["properties"].values())
