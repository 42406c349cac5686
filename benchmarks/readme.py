"""Write the tables of benchmarks/results/ into RESULTS.md, the headlines into README.md, and the
figure of docs/does-it-pay.md.

python benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import gpu, machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TITLES = {  # of the tables, in their order
    "comparison": "Math problems, 11%, seeds 0 to 4",
    "comparison-fresh": "Math problems, 11%, seeds 5 to 9",
    "comparison-tokens": "Math problems, 11%, with equal tokens",
    "comparison-k20": "Math problems, 11%, 20 clusters",
    "comparison-3-checkpoints": "Math problems, 11%, three checkpoints",
    "comparison-3": "Math problems, 3%",
    "comparison-38": "Math problems, 38%",
    "comparison-also": "Math problems, 11%, all other selectors, two seeds",
    "planted-right": "Planted patterns, no wrong answers",
    "planted-right-2": "Planted patterns, no wrong answers, second corpus",
    "planted-right-3": "Planted patterns, no wrong answers, third corpus",
    "planted": "Planted patterns, 5% wrong answers",
    "laws": "What selectors choose from the trajectories of math problems",
    "corpus": "Reading and tokenizing, 28,930 rows",
    "corpus-1M": "Reading, 1,000,000 rows",
    "corpus-tokens": "Tokenizing, 1,000,000 rows",
    "scoring": "Scoring, fp32",
    "scoring-bf16": "Scoring, fp32 and bf16",
    "trajectory": "Scoring stage, twelve checkpoints",
    "trajectory-2": "Scoring stage, two checkpoints",
    "overlap": "Scoring while training",
    "training": "Training",
    "kmeans-10M": "k-means, 10,000,000 rows",
    "kmeans-1M": "k-means, 1,000,000 rows",
    "kmeans-200k": "k-means, 200,000 rows",
    "kmeans-pool": "k-means, the trajectories of a run",
    "scale": "Clustering and selection at scale",
    "selection": "Selection by coverage",
    "plan-demo": "Plan beside run: the demo",
    "plan-pool": "Plan beside run: math problems, half an epoch and three checkpoints",
    "plan-large": "Plan beside run: 250,000 rows, training and scoring extrapolated from a tenth",
    "gpu": "Checks on one GPU",  # no result yet: it needs a GPU
}

Result = dict[str, Any]
Row = dict[str, Any]


def read(folder: Path = RESULTS) -> dict[str, Result]:
    """The results by file name, in the order of TITLES; files without a title come last."""
    stems = sorted(path.stem for path in folder.glob("*.json"))
    known = [stem for stem in TITLES if stem in stems]
    return {
        stem: json.loads((folder / f"{stem}.json").read_text())
        for stem in known + [stem for stem in stems if stem not in TITLES]
    }


def tables(results: dict[str, Result]) -> str:
    """The tables of RESULTS.md."""
    return "\n".join(section(stem, result) for stem, result in results.items())


def section(stem: str, result: Result) -> str:
    """One result: heading, command, machine, tables, remarks."""
    about, script = result["machine"], f"{stem.partition('-')[0]}.py"
    settings = ", ".join(
        f"{name.replace('_', ' ')} {machine.shown(value)}"
        for name, value in result["settings"].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    device = f"{name}, " if (name := result["settings"].get("gpu")) else ""
    blocks = [
        f"### {TITLES.get(stem, stem)}",
        f"```sh\n{result['command']}\n```",
        f"{about['date']}, {device}{about['cpu']}, {about['cpus']} CPUs, "
        f"{about['memory_gib']:.0f} GiB, torch {about['versions']['torch']}, "
        f"Ray {about['versions']['ray']}. "
        f"Data: [{stem}.json](results/{stem}.json). Columns: head of [{script}]({script}).",
    ]
    if settings:
        blocks.append(f"Settings: {settings}.")
    rows = result["rows"]
    if script == "comparison.py":
        rows = comparison_rows(rows)
    elif script == "gpu.py":
        rows = [{name: gpu.shown(row).get(name) for name in gpu.COLUMNS} for row in rows]
    columns = [  # single values; lists are in the file
        column
        for column in dict.fromkeys(column for row in rows for column in row)
        if not any(isinstance(row.get(column), list) for row in rows)
    ]
    blocks.append(machine.table(rows, columns))
    drawn = [line for row in rows if "timeline" in row for line in [row["way"], *row["timeline"]]]
    if drawn:
        blocks.append("```text\n" + "\n".join(drawn) + "\n```")
    if result.get("controls"):
        blocks.append("\n".join(f"- {sentence}" for sentence in result["controls"]))
    if "projection" in result:
        blocks.append(result["projection"])
    return "\n\n".join(blocks) + "\n"


def comparison_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows of a comparison with each interval in one column."""
    found = []
    for row in rows:
        shown = {name: row[name] for name in ("selector", "budget", "runs")}
        shown |= {name: row[name] for name in ("tokens trained on", "shared") if name in row}
        for metric, prefix in (("loss", ""), ("macro", "macro ")):
            shown[metric] = f"{row[metric]:.4f}"
            shown[f"{metric} − random"] = interval(row, prefix)
            error = f"{prefix}over examples"
            if error in row:
                value = row[error]
                shown[f"{metric}, error over examples"] = "" if value is None else f"{value:.4f}"
            if metric == "loss":
                shown |= {"p (Holm)": row["p (Holm)"], "verdict": row["verdict"]}
        found.append(shown)
    return found


def interval(row: Row, prefix: str = "") -> str:
    """A difference with its 95% interval, such as −0.0025 [−0.0096, +0.0045]."""
    names = (f"{prefix}difference", f"{prefix}from", f"{prefix}to")
    if row[names[0]] is None:
        return ""
    mean, low, high = (f"{row[name]:+.4f}".replace("-", "−") for name in names)
    return f"{mean} [{low}, {high}]"


def headlines(results: dict[str, Result]) -> str:
    """The README's table: what was measured, ours, and what it is compared with."""

    def row(stem: str, name: str) -> Row:
        return next(row for row in results[stem]["rows"] if name in row.values())

    def losses(what: str, stem: str, prefix: str = "") -> tuple[str, str, str]:
        ours, other = (row(stem, name) for name in ("s2l", "random_balanced"))
        beside = f"`random_balanced` {interval(other, prefix)}"
        return what, f"`s2l` {interval(ours, prefix)}", beside

    def rare(what: str, stem: str, beside: str) -> tuple[str, str, str]:
        names = ("s2l", beside)
        ours, other = (f"`{name}` {row(stem, name)['loss, small − random']}" for name in names)
        return what, ours, other

    scoring, fit = row("scoring", "ours"), row("kmeans-1M", "ours")
    peer = row("kmeans-1M", "scikit-learn KMeans")
    rows = [
        losses("Math problems, 11%: loss over all tokens", "comparison-fresh"),
        losses("Math problems, 11%: mean over sources", "comparison-fresh", "macro "),
        losses("Math problems, 38%: loss over all tokens", "comparison-38"),
        losses("Math problems, 38%: mean over sources", "comparison-38", "macro "),
        rare("Planted patterns: loss on rare ones", "planted-right", "prune_then_cluster"),
        rare("Planted patterns with 5% wrong answers", "planted", "cross_fitted"),
        (
            "Scoring in fp32",
            f"{scoring['speedup over official']:.1f} times as fast as the official code",
            f"{scoring['share of sustained']:.0%} of the CPU's sustained rate",
        ),
        (
            "k-means, 1 million trajectories",
            f"{fit['seconds']:.0f} s, inertia {fit['inertia ratio']:.3f} of scikit-learn's",
            f"scikit-learn: {peer['seconds']:.0f} s",
        ),
    ]
    columns = ("measured", "result", "for comparison")
    return machine.table([dict(zip(columns, row, strict=True)) for row in rows], columns) + "\n"


def figure(result: Result) -> str:
    """The planted benchmark as a drawing (SVG): per selector, the difference from random in the
    loss on small and on large patterns, with 95% intervals."""
    rows = [row for row in result["rows"] if row["loss, small − random"] != "–"]
    left, width, line, top = 230, 420, 34, 64
    low, high = -3.0, 2.5

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * width

    height = top + line * len(rows) + 46
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {height}" '
        f'font-family="sans-serif" font-size="13" role="img">',
        "<style>text{fill:#222}.axis{stroke:#999}.small{fill:#0b6e99;stroke:#0b6e99}"
        ".large{fill:#c2571a;stroke:#c2571a}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#5cc1ec;stroke:#5cc1ec}"
        ".large{fill:#f0935b;stroke:#f0935b}}</style>",
        '<text x="0" y="18" font-size="15">Planted patterns with 5% wrong answers: loss against '
        "a random subset</text>",
        f'<circle class="small" cx="{left}" cy="40" r="4"/><text x="{left + 10}" y="44">rare '
        f'patterns</text><circle class="large" cx="{left + 120}" cy="40" r="4"/>'
        f'<text x="{left + 130}" y="44">common patterns</text>',
    ]
    for value in (-3, -2, -1, 0, 1, 2):
        x = across(value)
        dash = "" if value == 0 else ' stroke-dasharray="2 4"'
        drawn.append(
            f'<line class="axis" x1="{x}" x2="{x}" y1="{top - 8}" y2="{height - 38}"{dash}/>'
            f'<text x="{x}" y="{height - 22}" text-anchor="middle">{signed(value)}</text>'
        )
    for number, row in enumerate(rows):
        y = top + line * number
        drawn.append(f'<text x="0" y="{y + 12}">{row["selector"]}</text>')
        for place, kind in ((4, "small"), (14, "large")):
            mean, start, end = spread(row[f"loss, {kind} − random"])
            drawn.append(
                f'<line class="{kind}" stroke-width="2" x1="{across(max(start, low)):.1f}" '
                f'x2="{across(min(end, high)):.1f}" y1="{y + place}" y2="{y + place}"/>'
                f'<circle class="{kind}" cx="{across(mean):.1f}" cy="{y + place}" r="4"/>'
            )
    drawn.append(
        f'<text x="{left}" y="{height - 4}">loss − random’s, nats per response token, 95% intervals'
        "</text></svg>"
    )
    return "\n".join(drawn) + "\n"


def signed(value: int) -> str:
    return "0" if value == 0 else f"{value:+d}".replace("-", "−")


def spread(text: str) -> tuple[float, float, float]:
    """Read a difference with its interval, as `interval` writes it."""
    mean, start, end = re.findall(r"[−+][\d.]+", text)[:3]
    return (
        float(mean.replace("−", "-")),
        float(start.replace("−", "-")),
        float(end.replace("−", "-")),
    )


def put(text: str, name: str, block: str) -> str:
    """The text with `block` between the lines <!-- NAME --> and <!-- /NAME -->."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"expected the lines {begin.strip()} and {end.strip()}, found none")
    return f"{before}{begin}\n{block}\n{end}{after}"


def main() -> None:
    results = read()
    for file, name, block in (
        (ROOT / "benchmarks" / "RESULTS.md", "tables", tables(results)),
        (ROOT / "README.md", "headlines", headlines(results)),
    ):
        file.write_text(put(file.read_text(), name, block))
    (ROOT / "docs" / "does-it-pay.svg").write_text(figure(results["planted"]))


if __name__ == "__main__":
    main()
