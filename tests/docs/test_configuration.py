"""docs/configuration.md is what the configuration's fields say."""

import re
import runpy

from support.head import REPOSITORY

from s2l_ray.config import RunConfig, load, resolve

tool = runpy.run_path(str(REPOSITORY / "docs/_tools/configuration.py"))


def test_the_page_is_up_to_date():
    assert tool["PAGE"].read_text() == tool["page"](), "run `make docs` and commit the page"


def rows():
    """Each row of the page's tables: its section, field, type, default and meaning."""
    section = ""
    for line in tool["page"]().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| `"):
            field, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            yield section, field.strip("`"), *cells


def test_every_setting_has_a_row_with_a_meaning():
    found = {(section, field) for section, field, *_ in rows()}
    for setting in resolve(REPOSITORY / "configs/demo.yaml", ["target_prompt={}"]):
        *above, field = setting.key.split(".")
        if {"architecture", "files"} & {*above}:  # their names are the user's
            continue
        section = above[-1] if above else "The run"
        titles = {section, *(f"{a} and {b}" for a, b in PAIRS if section in (a, b))}
        assert any((title, field) in found for title in titles), setting.key
    assert all(meaning for *_, meaning in rows())


PAIRS = [("prompt", "target_prompt"), ("proxy", "target")]


def test_types_and_defaults_of_some_fields():
    found = {(section, field): (kind, default) for section, field, kind, default, _ in rows()}
    assert found["corpus", "path"] == ("path or list of paths", "required")
    assert found["corpus", "num_parts"] == ("integer from 1 to 10000 or `null`", "`null`")
    assert found["proxy and target", "learning_rate"] == ("number > 0", "`2e-05`")
    assert found["model", "dtype"] == ("`auto`, `float32` or `bfloat16`", '`"float32"`')
    assert found["evaluation", "files"] == ("mapping to paths", "`{}`")
    assert found["compare", "seeds"] == ("list of integers ≥ 0", "`[0, 1, 2, 3, 4, 5]`")
    assert found["diagnose", "proxies"] == ("mapping to [model](#model)", "`{}`")
    assert found["The run", "target"][1] == "`null`"
    assert {field for section, field in found if section == "The run"} == set(
        RunConfig.model_fields
    )


def test_a_default_of_the_page_is_that_of_a_run():
    config = load(REPOSITORY / "configs/demo.yaml")
    assert config.clusters.tol == 1e-4
    assert ("clusters", "tol", "number ≥ 0", "`0.0001`") in {row[:4] for row in rows()}
