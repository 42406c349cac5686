"""Hooks of mkdocs: pages from outside docs/, and links that lead out of it.

The pages of the repository are written for GitHub, where a link may lead to any file. The site has
README.md and the pages in PAGES too. A link to another file of the repository becomes plain text,
unless mkdocs.yml has a repo_url to lead to.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # page of the repository: page of the site
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "results.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def on_config(config: Any) -> Any:
    """Make the anchors of headings as GitHub does."""
    config["mdx_configs"]["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/."""
    for page, site in PAGES.items():
        files.append(File.generated(config, site, content=(ROOT / page).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Lead each link to the page of the site."""
    outside = {site: page for page, site in PAGES.items()}
    source = outside.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return rewritten(markdown, source, config["repo_url"])


def rewritten(markdown: str, source: str, repository: str | None) -> str:
    """The text of a page of the repository, with links as the site needs them."""

    def rewrite(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        address, hash_sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), address))
        if not address or ":" in address or not (ROOT / path).exists():
            return link[0]  # mkdocs says which lead nowhere
        if path in PAGES:
            return f"[{text}]({PAGES[path]}{hash_sign}{anchor})"
        if path.startswith("docs/"):
            return f"{image}[{text}]({path.removeprefix('docs/')}{hash_sign}{anchor})"
        return f"[{text}]({repository}/blob/HEAD/{path})" if repository else text

    return LINK.sub(rewrite, markdown)
