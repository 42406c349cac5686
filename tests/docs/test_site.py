"""The site that `make docs` builds."""

import os
import re
import runpy
import subprocess
import sys

import pytest
from support.head import REPOSITORY

site = runpy.run_path(str(REPOSITORY / "docs/_tools/site.py"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(built):
    pages = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert pages | {"readme", "contributing", "results"} <= {p.stem for p in built.glob("*.html")}
    assert not (built / "_tools").exists()


def test_a_page_loads_nothing_from_elsewhere(built):
    for path in built.glob("*.html"):
        tags = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", path.read_text())
        loaded = [url for tag in tags for url in re.findall(r'\b(?:src|href)="(.*?)"', tag)]
        assert [url for url in loaded if "//" in url] == [], path.name


@pytest.mark.parametrize("source, link, expected", [
    ("docs/index.md", "[a](../README.md)", "[a](readme.md)"),
    ("docs/index.md", "[a `b`](../benchmarks/RESULTS.md#findings)", "[a `b`](results.md#findings)"),
    ("docs/index.md", "[a](cluster.md#aws)", "[a](cluster.md#aws)"),
    ("docs/index.md", "see [`a`](../cluster.yaml).", "see `a`."),
    ("docs/index.md", "[a](#here)", "[a](#here)"),
    ("docs/index.md", "[a](gone.md)", "[a](gone.md)"),
    ("docs/index.md", "[a](https://example.com/)", "[a](https://example.com/)"),
    ("README.md", "[a](docs/index.md) [b](SECURITY.md)", "[a](index.md) [b](security.md)"),
    ("benchmarks/RESULTS.md", "[a](../docs/index.md)", "[a](index.md)"),
    ("benchmarks/RESULTS.md", "[a](results)", "a"),
])  # fmt: skip
def test_links_out_of_the_documentation(source, link, expected):
    assert site["rewritten"](link, source, None) == expected


def test_links_lead_to_the_repository_if_it_is_known():
    found = site["rewritten"]("[a](../cluster.yaml)", "docs/index.md", "https://example.com/us")
    assert found == "[a](https://example.com/us/blob/HEAD/cluster.yaml)"
