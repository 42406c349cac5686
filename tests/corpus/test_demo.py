"""The made-up corpus: every checkable answer is worked out again from the question's text."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from s2l_ray.corpus import demo

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
UNIT_SIZES = {  # in centimeters, inches, grams, milliliters, seconds, ounces or quarts
    "kilometers": 100_000,
    "meters": 100,
    "centimeters": 1,
    "yards": 36,
    "feet": 12,
    "inches": 1,
    "kilograms": 1_000,
    "grams": 1,
    "liters": 1_000,
    "milliliters": 1,
    "weeks": 604_800,
    "days": 86_400,
    "hours": 3_600,
    "minutes": 60,
    "seconds": 1,
    "pounds": 16,
    "ounces": 1,
    "gallons": 4,
    "quarts": 1,
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return demo.generate()


def of(rows: list[dict[str, str]], source: str) -> list[tuple[str, str]]:
    """(question, final answer) of every row of a source."""
    chosen = [row for row in rows if row["source"] == source]
    assert chosen
    return [
        (r["instruction"], r["output"].rpartition("The answer is ")[2].rstrip(".")) for r in chosen
    ]


def ints(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def roman_value(numeral: str) -> int:
    values = [ROMAN[c] for c in numeral] + [0]
    return sum(-v if v < after else v for v, after in pairwise(values))


def sum_or_difference(question: str) -> int:
    a, b = ints(question)
    if re.search(r" \+ |Add|sum", question):
        return a + b
    return abs(a - b)  # never negative in this corpus


def side(text: str, var: str, value: int) -> int:
    """The value of one side of an equation such as `7x - 12`."""
    return eval(text.replace(var, f" * ({value})"), {"__builtins__": {}})


def test_sizes_and_fields(rows):
    assert len(rows) == 6000
    assert all(set(row) == {"instruction", "output", "source"} for row in rows)
    assert len({row["instruction"] for row in rows}) == 6000
    sizes = Counter(row["source"] for row in rows)
    assert set(sizes) == set(demo.SOURCES)
    assert len(set(sizes.values())) == len(sizes)
    assert max(sizes.values()) == 1500 and min(sizes.values()) == 40
    words = [len(f"{row['instruction']} {row['output']}".split()) for row in rows]
    assert min(words) >= 5 and 60 < max(words) <= 90
    assert len({row["source"] for row in rows[:100]}) > 8, "not shuffled"


@pytest.mark.parametrize("num_examples", [1, 7, 100, 1234])
def test_exact_count(num_examples):
    assert len(demo.generate(num_examples, seed=3)) == num_examples


def test_same_in_every_process(rows, tmp_path):
    root = Path(demo.__file__).parents[1]
    code = "import sys; from s2l_ray.corpus import demo; demo.write(sys.argv[1], 600, seed=7)"
    digests = set()
    for hash_seed in ("1", "2"):
        path = tmp_path / f"{hash_seed}.jsonl"
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", code, path], check=True, cwd=root, env=env)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert demo.generate(600, seed=7) == demo.generate(600, seed=7) != demo.generate(600, seed=8)


def test_arithmetic(rows):
    for question, answer in of(rows, "addition_subtraction"):
        assert int(answer) == sum_or_difference(question), question
    for question, answer in of(rows, "multiplication"):
        a, b = ints(question)
        assert int(answer) == a * b, question
    for question, answer in of(rows, "comparison"):
        assert int(answer) == max(ints(question)), question
    for question, answer in of(rows, "short_answers"):
        expression = re.search(r"[\d(][\d ()+x-]*\d", question)[0].replace("x", "*")
        assert int(answer) == eval(expression, {"__builtins__": {}}), question


def test_noisy_arithmetic_is_wrong(rows):
    noisy = of(rows, "noisy_arithmetic")
    wrong = sum(int(answer) != sum_or_difference(question) for question, answer in noisy)
    assert wrong > 0.9 * len(noisy)


def test_written_steps_are_true(rows):
    """Every `a op b = c` in a worked answer holds, in all sources but the noisy one."""
    step = re.compile(r"(?<![\w./])(\d+(?:\.\d+)?) ([-+x/]) (\d+)(?: / (100))? = (-?\d+(?:\.\d+)?)")
    checked = Counter()
    for row in rows:
        if row["source"] != "noisy_arithmetic":
            for a, sign, b, hundred, c in step.findall(row["output"]):
                a, b, c = Fraction(a), Fraction(b), Fraction(c) * Fraction(hundred or 1)
                value = {"+": a + b, "-": a - b, "x": a * b, "/": a / b}[sign]
                assert value == c, row
                checked[row["source"]] += 1
    assert len(checked) >= 8 and checked.total() > 6000


def test_fractions(rows):
    for question, answer in of(rows, "fractions"):
        left, sign, right = re.search(r"(\d+/\d+) ([-+]) (\d+/\d+)", question).groups()
        left, right = Fraction(left), Fraction(right)
        assert answer == str(left + right if sign == "+" else left - right), question


def test_equations(rows):
    for question, answer in of(rows, "linear_equations"):
        equation = re.search(r"\d+([a-z]) [-+] \d+ = [^.?]+", question)
        left, right = equation[0].split(" = ")
        var, value = equation[1], int(answer)
        assert side(left, var, value) == side(right.strip(), var, value), question
    for output in (row["output"] for row in rows if row["source"] == "linear_equations"):
        steps = re.findall(r"(\d+)([a-z])(?: ([-+] \d+))? = (-?\d+)\.", output)
        value = int(re.search(r"The answer is (-?\d+)\.", output)[1])
        assert steps
        for slope, var, offset, right in steps:
            assert side(f"{slope}{var} {offset}", var, value) == int(right), output


def test_percentages(rows):
    for question, answer in of(rows, "percentages"):
        if "price" in question:
            whole, percent = ints(question)
            share = Fraction(percent if "rises" in question else -percent, 100)
            assert int(answer) == whole * (1 + share), question
        else:
            percent, whole = ints(question)
            assert int(answer) == Fraction(percent * whole, 100), question


def test_word_problems(rows):
    for question, answer in of(rows, "shopping"):
        cash, n, p, m, q = ints(question)
        assert int(answer) == cash - n * p - m * q > 0, question
    for question, answer in of(rows, "travel"):
        a, b, c, *d = ints(question)
        expected = Fraction(a, b + c) if not d else a * b + c * d[0]
        assert int(answer) == expected, question


def test_units(rows):
    for question, answer in of(rows, "unit_conversion"):
        if found := re.fullmatch(r"Convert ([\d.]+) (\w+) to (\w+)\.", question):
            amount, old, new = found.groups()
        else:
            new, amount, old = re.fullmatch(
                r"How many (\w+) are there in ([\d.]+) (\w+)\?", question
            ).groups()
        assert Fraction(answer) == Fraction(amount) * UNIT_SIZES[old] / UNIT_SIZES[new]


def test_dates(rows):
    for question, answer in of(rows, "dates"):
        if found := re.fullmatch(r"If today is (\w+), .* in (\d+) days\?", question):
            monday = datetime(2024, 1, 1)
            day = monday + timedelta(days=DAYS.index(found[1]) + int(found[2]))
            assert answer == DAYS[day.weekday()], question
        else:
            days, start = re.search(r"(\d+) days \w+ (\d+ \w+ \d+)", question).groups()
            start, end = (datetime.strptime(text, "%d %B %Y") for text in (start, answer))
            assert end == start + timedelta(days=int(days)), question


def test_lists(rows):
    work = {
        "ascending": sorted,
        "descending": lambda numbers: sorted(numbers, reverse=True),
        "largest": lambda numbers: [max(numbers)],
        "smallest": lambda numbers: [min(numbers)],
        "sum": lambda numbers: [sum(numbers)],
    }
    for question, answer in of(rows, "lists"):
        (kind,) = [word for word in work if word in question]
        assert ints(answer) == work[kind](ints(question)), question


def test_strings(rows):
    for question, answer in of(rows, "strings"):
        text = re.search(r'"(.*)"', question)[1]
        if found := re.search(r"letter (\w) ", question):
            assert int(answer) == sum(c == found[1] for c in text), question
        elif re.search("Reverse|backwards", question):
            assert answer == "".join(reversed(text)), question
        else:
            assert answer.isupper() and answer.lower() == text, question


def test_sequences(rows):
    for question, answer in of(rows, "sequences"):
        terms = [*ints(question), int(answer)]
        steps = {b - a for a, b in pairwise(terms)}
        factors = {Fraction(b, a) for a, b in pairwise(terms)}
        assert len(terms) == 6 and 1 in (len(steps), len(factors)), question


def test_roman_numerals(rows):
    assert [roman_value(n) for n in ("XIV", "MCMXC", "MMXXIV")] == [14, 1990, 2024]
    canonical = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
    for question, answer in of(rows, "roman_numerals"):
        texts = re.findall(r"\b[IVXLCDM]+\b|\d+", f"{question} {answer}")
        numeral, number = sorted(texts, key=str.isdigit)
        assert canonical.fullmatch(numeral) and roman_value(numeral) == int(number), question


def test_exhausted_source(monkeypatch):
    two_questions = (lambda rng: (f"Is {rng.randint(0, 1)} odd?", "", "Maybe"), 1)
    monkeypatch.setattr(demo, "SOURCES", {"tiny": two_questions})
    assert len(demo.generate(2)) == 2
    with pytest.raises(ValueError, match=r"'tiny': expected 3 different questions, got 2"):
        demo.generate(3)


@pytest.mark.parametrize("bad_rows", [0, 5, 12])
def test_bad_rows(tmp_path, bad_rows):
    path = demo.write(tmp_path / "new" / "corpus.jsonl", 300, seed=1, bad_rows=bad_rows)
    good = []
    bad_positions = []
    for position, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = {}
        if row.get("instruction") and row.get("output") and row.get("source"):
            good.append(row)
        else:
            bad_positions.append(position)
    assert len(bad_positions) == bad_rows
    assert good == demo.generate(300, seed=1)
    assert not bad_rows or max(bad_positions) - min(bad_positions) > 50, "not scattered"
    assert [p.name for p in path.parent.iterdir()] == ["corpus.jsonl"]


def test_refuses_senseless_numbers(tmp_path):
    with pytest.raises(ValueError, match="num_examples: expected 1 or more, got 0"):
        demo.generate(0)
    with pytest.raises(ValueError, match="bad_rows: expected 0 or more, got -1"):
        demo.write(tmp_path / "x.jsonl", 10, bad_rows=-1)
