"""Check the links between the pages of the repository: python docs/_tools/links.py

A relative link must lead to a file or folder, and its anchor to a heading. Other sites are not
asked. Exit status 1 if a link leads nowhere, with a line for each.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("*.md", "docs/**/*.md", "benchmarks/*.md")
HTML = ("html_inline", "html_block")


def faults(root: Path = ROOT) -> list[str]:
    """What is wrong, as "PAGE:LINE: LINK: why", of all pages of a repository."""
    pages = sorted({path for pattern in PAGES for path in root.glob(pattern)})
    return [
        f"{page.relative_to(root)}:{line}: {link}: {why}"
        for page in pages
        for line, link in links(page.read_text(encoding="utf-8"))
        if (why := _fault(link, page, root))
    ]


def links(text: str) -> Iterator[tuple[int, str]]:
    """The targets of links and images in Markdown and in its HTML, each with its line."""
    for line, token in _tokens(text):
        if token.type in HTML:
            for found in re.finditer(r"""\b(?:href|src)=["']([^"']*)["']""", token.content):
                yield line + token.content.count("\n", 0, found.start()), found[1]
        elif target := token.attrGet("href" if token.type == "link_open" else "src"):
            yield line, str(target)


def anchors(text: str) -> set[str]:
    """The anchors of headings, as GitHub makes them, and those set in HTML."""
    found: set[str] = set()
    for heading, inside in pairwise(_parse(text)):
        if heading.type == "heading_open":
            words = [c.content for c in inside.children or [] if c.type in ("text", "code_inline")]
            slug = name = re.sub(r"[^\w\- ]", "", "".join(words).lower()).replace(" ", "-")
            number = 0
            while slug in found:
                number += 1
                slug = f"{name}-{number}"
            found.add(slug)
    for _, token in _tokens(text):
        if token.type in HTML:
            found.update(re.findall(r"""\b(?:id|name)=["']([^"']*)["']""", token.content))
    return found


def _fault(link: str, page: Path, root: Path) -> str | None:
    address, _, anchor = unquote(link).partition("#")
    if re.match(r"[a-z][a-z0-9+.-]*:|//", address, re.IGNORECASE):
        return None  # another site
    target = (page.parent / address).resolve() if address else page
    if address.startswith("/") or not target.is_relative_to(root.resolve()):
        return "outside the repository; expected a path relative to this page"
    if not target.exists():
        return "no such file"
    if not anchor:
        return None
    if target.suffix != ".md":
        return "an anchor into a file that has no headings"
    known = anchors(target.read_text(encoding="utf-8"))
    if anchor in known:
        return None
    near = difflib.get_close_matches(anchor, known, n=1, cutoff=0.5)
    return f"no such heading{f'; nearest: #{near[0]}' if near else ''}"


def _tokens(text: str) -> Iterator[tuple[int, Token]]:
    """Blocks and what is inside them, each with its line."""
    for block in _parse(text):
        line = block.map[0] + 1 if block.map else 0
        yield line, block
        for token in block.children or []:
            yield line, token
            line += token.type in ("softbreak", "hardbreak")


def _parse(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


if __name__ == "__main__":
    found = faults()
    print("\n".join(found) or "links: all lead somewhere")
    sys.exit(bool(found))
