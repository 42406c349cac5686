"""The links between pages: they lead somewhere, and the check can fail."""

import runpy
import subprocess
import sys

import pytest
from support.head import REPOSITORY

TOOL = REPOSITORY / "docs/_tools/links.py"
links = runpy.run_path(str(TOOL))


@pytest.fixture
def faults(tmp_path):
    """Of a small repository whose docs/page.md has this text."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.yaml").touch()
    (tmp_path / "with space.md").touch()
    (tmp_path / "README.md").write_text("# `a` name, *twice*\n\n## Part\n\n## Part\n\n<a id='x'>\n")

    def check(text):
        (tmp_path / "docs/page.md").write_text(text)
        return links["faults"](tmp_path)

    return check


@pytest.mark.parametrize("link", [
    "../README.md",
    "../README.md#a-name-twice",
    "../README.md#part",
    "../README.md#part-1",
    "../README.md#x",
    "../configs/demo.yaml",
    "../configs",
    "../with%20space.md",
    "#here",
    "https://example.com/nothing#here",
    "mailto:nobody@example.com",
])  # fmt: skip
def test_a_link_that_leads_somewhere(link, faults):
    assert faults(f"# Here\n\nSee [this]({link}).\n") == []


@pytest.mark.parametrize("link, why", [
    ("../REDME.md", "no such file"),
    ("README.md", "no such file"),
    ("../readme.md", "no such file"),
    ("../README.md#parts", "no such heading; nearest: #part"),
    ("../README.md#part-2", "no such heading"),
    ("../README.md#Part", "no such heading"),
    ("#there", "no such heading"),
    ("../configs/demo.yaml#L3", "an anchor into a file that has no headings"),
    ("/README.md", "outside the repository"),
    ("../../README.md", "outside the repository"),
])  # fmt: skip
@pytest.mark.parametrize("text", [
    "[this]({})", "![this]({})", "[this][1]\n\n[1]: {}", "[`this`]({})", '<img src="{}">',
    "| a |\n| --- |\n| [this]({}) |", "- one\n\n  [this]({})",
])  # fmt: skip
def test_a_link_that_leads_nowhere(text, link, why, faults):
    (found,) = faults("# Page\n\n" + text.format(link) + "\n")
    assert found.startswith("docs/page.md:") and f": {link}: {why}" in found


def test_the_line_of_a_link_is_told(faults):
    found = faults("# Page\n\none\ntwo\n[three](gone.md)\n\n| a |\n| - |\n| [b](lost.md) |\n")
    assert found == [
        "docs/page.md:5: gone.md: no such file", "docs/page.md:9: lost.md: no such file"
    ]  # fmt: skip


def test_code_has_no_links(faults):
    assert faults("```\n[this](gone.md)\n```\n\n`[that](gone.md)`\n\n# `[a](b)`\n") == []


def test_the_pages_of_the_repository():
    done = subprocess.run([sys.executable, TOOL], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_a_fault_is_exit_status_1(tmp_path):
    (tmp_path / "docs/_tools").mkdir(parents=True)
    (tmp_path / "docs/_tools/links.py").write_text(TOOL.read_text())
    (tmp_path / "README.md").write_text("[gone](gone.md)")
    done = subprocess.run(
        [sys.executable, tmp_path / "docs/_tools/links.py"], text=True, capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "README.md:1: gone.md: no such file\n")
