"""Turn a matplotlib figure into an `<svg>` element for an HTML page.

Labels are untrusted: none is parsed as math, and the XML writer escapes all. Text stays text: it is
small and searchable, and the reader's fonts show scripts that matplotlib's font lacks.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from s2l_ray.report.html import printable

INK = "#333333"
WIDTH = 5.6  # inches; the page scales it
MAX_LABEL_CHARS = 26
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "s2l_ray",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}

# Direction controls would reverse the rest of the line.
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_ATTRIBUTES_WITH_COORDINATES = ("d", "points", "x", "y", "transform")


def label(text: str, limit: int = MAX_LABEL_CHARS) -> str:
    """Return `text` as one short line that a figure can show."""
    text = " ".join(_DIRECTION.sub("", printable(text)).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    # A legend leaves out labels that begin with an underscore, but not after a zero-width space.
    return f"\u200b{text}" if text.startswith("_") else text


def to_svg(draw: Callable[[Axes], None], *, name: str, height: float, aria_label: str) -> str:
    """Let `draw` fill the axes of a new figure of `height` inches, and return it as `<svg>`.

    `name` must be unique on the page: ids begin with it. `aria_label` describes the figure.
    """
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    root = _strip(ElementTree.fromstring(buffer.getvalue()), name)
    root.set("role", "img")
    root.set("aria-label", printable(aria_label))
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: ElementTree.Element, name: str) -> ElementTree.Element:
    """Remove namespaces, style sheet and unused ids; prefix other ids; round coordinates."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    used = {match for value in values for match in re.findall(r"#([\w-]+)", value)}
    for element in root.iter():
        for child in list(element):
            if child.tag.endswith(("}style", "}metadata")):
                element.remove(child)
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                if value not in used:
                    continue
                value = f"{name}-{value}"
            elif key == "href":
                value = f"#{name}-{value[1:]}"
            elif key in _ATTRIBUTES_WITH_COORDINATES:
                value = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value)
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        if element.tag not in ("text", "tspan"):
            element.text = None
        element.tail = None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    return root
