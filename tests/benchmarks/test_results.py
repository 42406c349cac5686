"""The tables of RESULTS.md and README.md are those of benchmarks/results/."""

import json
import sys

import pytest

from benchmarks import law, machine, readme


@pytest.mark.parametrize(
    "file, name", [("benchmarks/RESULTS.md", "tables"), ("README.md", "headlines")]
)
def test_the_pages_hold_the_results_as_they_are(file, name):
    results = readme.read()
    block = readme.headlines(results) if name == "headlines" else readme.tables(results)
    text = (readme.ROOT / file).read_text()
    assert readme.put(text, name, block) == text, "run: python benchmarks/readme.py"


def test_the_law_is_what_it_computes_today():
    text = (readme.ROOT / "docs/performance.md").read_text()
    assert law.table() in text, "put the table of `python benchmarks/law.py` there"


def test_every_result_has_a_title_a_command_and_a_machine():
    results = readme.read()
    assert results.keys() | {"gpu"} == readme.TITLES.keys()  # which needs a GPU
    for stem, result in results.items():
        script = f"benchmarks/{stem.partition('-')[0]}.py"
        assert result["command"].startswith(f"python {script}"), stem
        assert (readme.ROOT / script).is_file()
        assert {"date", "cpu", "cpus", "memory_gib", "versions"} <= result["machine"].keys()


def test_the_checks_on_a_gpu_have_their_numbers_in_one_column():
    rows = [
        {"check": "scoring", "case": "a", "tokens/s": 1234.5, "busy": 0.5, "check seconds": 2.0},
        {"check": "zero", "check seconds": 1.0, "error": "RuntimeError: no device\nits trace"},
    ]
    result = readme.read()["selection"] | {"settings": {"gpu": "H200"}, "rows": rows}
    text = readme.section("gpu", result)
    assert "H200, " in text and "| scoring | a | tokens/s 1,234, busy 0.5 |  |  |" in text
    assert "| zero |  | RuntimeError: no device |  |  |" in text


def test_an_interval_by_hand():
    row = {"difference": -0.00251, "from": -0.0096, "to": 0.00454}
    assert readme.interval(row) == "−0.0025 [−0.0096, +0.0045]"
    assert readme.interval({"difference": None, "from": None, "to": None}) == ""


def test_a_page_without_its_lines_is_refused():
    with pytest.raises(ValueError, match="expected the lines <!-- tables --> and <!-- /tables -->"):
        readme.put("no lines", "tables", "block")


def test_a_result_knows_its_command_without_folders(tmp_path, monkeypatch):
    corpus, out = tmp_path / "pool.jsonl", tmp_path / "kept" / "found.json"
    corpus.write_text("{}\n")
    words = [str(corpus), "compare.also=[]", "--json", str(out), "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["/some/where/benchmarks/scoring.py", *words])
    machine.write(str(out), {"corpus": str(corpus), "rounds": 2}, [{"way": "ours"}], records=[1])
    found = json.loads(out.read_text())
    command = "python benchmarks/scoring.py pool.jsonl 'compare.also=[]' --rounds 2"
    assert found["command"] == command
    assert found["settings"] == {"corpus": "pool.jsonl", "rounds": 2}
    assert (found["rows"], found["records"]) == ([{"way": "ours"}], [1])
