"""Put the tables of results (the JSON files that benchmarks wrote) into README.md.

python benchmarks/readme.py benchmarks/results/*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import machine

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->\n"


def section(name: str, result: dict[str, Any]) -> str:
    about = result["machine"]
    what = ", ".join(
        f"{key.replace('_', ' ')} {machine.shown(value)}"
        for key, value in result["settings"].items()
        if isinstance(value, str | int | float)
    )
    where = (
        f"{about['date']}, {about['cpu']}, {about['cpus']} CPUs, {about['memory_gib']:.0f} GiB, "
        f"torch {about['versions']['torch']}, Ray {about['versions']['ray']}"
    )
    columns = [  # single figures; what lies behind them is in the file
        column
        for column in dict.fromkeys(column for row in result["rows"] for column in row)
        if not any(isinstance(row.get(column), list) for row in result["rows"])
    ]
    drawn = "".join(
        f"    {row['way']}\n" + "".join(f"      {line}\n" for line in row["timeline"])
        for row in result["rows"]
        if "timeline" in row
    )
    title = f"**`benchmarks/{name.partition('-')[0]}.py`** ({what}; {where})"
    words = result.get("a billion") or "\n".join(f"- {each}" for each in result.get("controls", []))
    beside = "".join(f"{each}\n\n" for each in (drawn.rstrip(), words) if each)
    return f"{title}\n\n{machine.table(result['rows'], columns)}\n\n{beside}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "results", nargs="+", type=Path, help="NAME.json or NAME-size.json of benchmarks/NAME.py"
    )
    found = sorted(parser.parse_args().results)
    tables = "".join(section(path.stem, json.loads(path.read_text())) for path in found)
    before, _, rest = README.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{README}: no lines {BEGIN.strip()} and {END.strip()}")
    README.write_text(f"{before}{BEGIN}\n{tables}{END}{after}")


if __name__ == "__main__":
    main()
