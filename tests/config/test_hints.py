"""Names that other programs use, misspelt names, and who is blamed for them."""

from typing import get_args

import pytest
from support.head import REPOSITORY

from s2l_ray.config import RunConfig, load
from s2l_ray.config.hints import SYNONYMS, hint, section_of
from s2l_ray.errors import ConfigError


def sections(section=RunConfig):
    """All classes of sections, each once."""
    found = {section: None}
    for field in section.model_fields.values():
        for annotation in (field.annotation, *get_args(field.annotation)):
            if (below := section_of(annotation)) is not None:
                found |= dict.fromkeys(sections(below))
    return list(found)


@pytest.mark.parametrize("section", sections(), ids=lambda each: each.__name__)
def test_a_synonym_of_a_field_leads_to_it_in_every_section(section):
    by_name = {}
    for field in section.model_fields:
        for name in SYNONYMS.get(field, "").split():
            if name in section.model_fields:
                continue
            assert name not in by_name, f"{name}: {by_name[name]} or {field}"
            by_name[name] = field
            for written in (name, name.upper(), name.replace("_", "-")):
                assert hint(written, section, RunConfig) == f"nearest valid name: {field}"


def test_every_synonym_is_of_a_field_that_there_is():
    fields = {field for section in sections() for field in section.model_fields}
    assert SYNONYMS.keys() <= fields
    assert all(field not in names.split() for field, names in SYNONYMS.items())


@pytest.mark.parametrize("section", sections(), ids=lambda each: each.__name__)
def test_a_typo_leads_to_its_field_in_every_section(section):
    for field in section.model_fields:
        if len(field) > 5:
            for written in (field[:-2] + field[-1], field[0] + field[2:], field + "s"):
                if written not in section.model_fields:
                    assert hint(written, section, RunConfig).startswith("nearest valid name: ")


@pytest.mark.parametrize("override, told", [
    ("proxy.lr=3", "override: proxy.lr: unknown key (value 3); nearest valid name: learning_rate"),
    ("lr=3", "override: lr: unknown key (value 3); valid elsewhere: proxy.learning_rate, target.l"),
    ("proxy.max_length=9", "valid elsewhere: prompt.max_length, target_prompt.max_length"),
    ("selection.n_clusters=9", "valid elsewhere: clusters.n_clusters, diagnose.n_clusters"),
    ("eval.seeds=[1]", "override: eval: unknown key (value a mapping); nearest valid name: evalua"),
    ("proxy.model=a/b", "got 'a/b'; nearest valid name: proxy.model.name"),
    ("corpus=a.jsonl", "got 'a.jsonl'; nearest valid name: corpus.path"),
    ("target={model: {name: a/b}, lr: 3}", "override: target.lr: unknown key"),
    ("proxy.learning_rate=-1", "override: proxy.learning_rate: expected a number greater than 0"),
    ("proxy={}", "override: proxy.model: required, but missing"),
    ("prompt.template=custom", "FILE with the override of prompt.template: prompt: prompt.prompt"),
    ("run_dir=s3://AKIA:SECRET@bucket/x", "override: run_dir: "),
])  # fmt: skip
def test_a_bad_override_is_not_blamed_on_the_file(override, told):
    file = REPOSITORY / "configs/demo.yaml"
    with pytest.raises(ConfigError) as caught:
        load(file, ["seed=3", override, "name=other"])
    (line,) = str(caught.value).splitlines()
    assert told.replace("FILE", str(file)) in line and "SECRET" not in line


def test_the_file_keeps_the_blame_for_its_own_faults(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("run_dir: x\ncorpus: {path: x, lr: 3}\nproxy: {model: {name: a}, epochs: -1}\n")
    with pytest.raises(ConfigError) as caught:
        load(file, ["proxy.learning_rate=-1", "corpus.split=train"])
    assert sorted(line.partition(": ")[0] for line in str(caught.value).splitlines()) == [
        str(file), str(file), "override",
    ]  # fmt: skip
