"""Extract the answer from a generated text, and judge it. Pure functions, no I/O.

The answer is the first of these that the text has:

1. after the last "The answer is", a \\boxed{}, or else the rest of the sentence;
2. the content of the last \\boxed{};
3. the last number.

An answer is right if it is the expected text (in any case), or if math-verify finds them equal.
Rules that come before math-verify:

- An expected option (B) is matched by its letter: "B", "(B)", "B. web", "option B".
- Numbers separated by spaces (7 1 -1) are a list. It must have the same order, with any separators.
  Brackets around an expected list ([3, 5]) are optional.
- A fraction after a whole number is added to it: 2 1/2.
- A percent sign at the end of only one of the two is ignored.
- An expected decimal, or 2.2e+07, of three digits or more counts as rounded: 1750/3 matches
  583.3333.
- Only the number counts in "18 dollars", "18, because she sold two" and "60 km/h".

The expected answer of a text with "####" (GSM8K) is what follows the last "####".
"""

from __future__ import annotations

import re
import threading
from decimal import Decimal
from typing import Any

RULE = 3  # version of the rules: part of the fingerprint of a stage of answers

TIME_LIMIT = 5  # seconds for math-verify to parse a text, or to compare two

MARKER = re.compile(r"the\s+answer\s+is", re.IGNORECASE)

SENTENCE_END = re.compile(r"\n|(?<!\b[Rr]s)(?<!\b[Aa]pprox)\.(?:\s|$)")

# A minus after a letter, digit or closing bracket is an operator.
SIGN = r"(?:(?<![\w)\]}.])-)?"

NUMBER = re.compile(
    SIGN + r"\$?(?:[0-9]+ +[0-9]+(?=/[0-9])|[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
    r"|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]{1,2}(?![0-9]))?(?:/[0-9]+)?%?"
)

SCIENTIFIC = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)[eE][+-]?[0-9]{1,2}(?![0-9])")

DECIMAL = re.compile(r"-?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]{1,2})?")

MIXED = re.compile(r"(?<![\w./^])([0-9]+) +([0-9]+)/([0-9]+)(?![\w/^]|\.[0-9])")

SPACED = re.compile(r"-?[0-9.]+(?: +-?[0-9.]+)+")

OPTION = re.compile(r"\(?([A-Z])\)?")

CHOSEN = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice) +)?\(?([A-Z])(?:[).:]| *\(|$)")

# Without meaning here: delimiters of formulas, thin spaces, currencies, "about". After a backslash,
# \[ is no delimiter but a line break and a bracket.
LAYOUT = re.compile(r"(?<!\\)\\[()\[\],!;:]|\\?\$|[£€¥₹`~≈]|\b(?:Rs|[Aa]pprox)\.? +(?=[0-9])")

TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|mathbf)\{([^{}]*)\}")

COMMAND = re.compile(r"\\(?:text\w*|mbox|math\w*|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")

WORD = re.compile(r"[^\W\d_]{3,}|\b(?:so|as|if|is|it|he|we)\b")

FUNCTION = re.compile(r"(?<![\\A-Za-z])(?:sqrt|log|ln|sin|cos|tan|exp|pi)(?![A-Za-z])")

ROOT = re.compile(r"(?<![\\A-Za-z])sqrt *\(([^()]*)\)")

PERCENT = re.compile(r"\s*\\?%$")

MEASURE = "[kcm]?m|[kc]g|m?g|m?[lL]|h|hrs?|s|min|mi|in|ft|yd|lbs?|oz"

UNIT = re.compile(
    rf"(?<=[0-9])(?: +(?:{MEASURE})(?:\^?[23²³])?(?:/(?:{MEASURE}))?| *°| *(?:km/h|m/s|mph))$"
)


def extract(generated: str) -> str | None:
    """Return the answer in a generated text, as it is written there; None if there is none."""
    markers = [found.end() for found in MARKER.finditer(generated)]
    if markers:
        tail = generated[markers[-1] :]
        found = _boxed(tail) or SENTENCE_END.split(tail.lstrip(" \t\r\n:*"), maxsplit=1)[0]
    else:
        found = _boxed(generated) or _last_number(generated) or ""
    return found.strip() if _tidy(found) else None


def expected_answer(text: str) -> str:
    """Return the expected answer from the answer column of a set of questions."""
    return text.rpartition("####")[2].strip()


def is_right(found: str, expected: str) -> bool:
    """Return whether an extracted answer matches the expected one.

    math-verify sets its time limits with an alarm signal, which works only in the main thread of a
    process. In another thread there is no limit.
    """
    rounded = DECIMAL.fullmatch(expected.strip())
    found, expected = _tidy(found), _tidy(expected)
    if found.casefold() == expected.casefold():
        return True
    bare = [PERCENT.sub("", text) for text in (found, expected)]
    if (bare[0] == found) != (bare[1] == expected) and is_right(*bare):
        return True
    if NUMBER.fullmatch(expected):
        found = UNIT.sub("", found)
    if option := OPTION.fullmatch(expected):
        letter = CHOSEN.match(found)
        return letter is not None and letter[1] == option[1]
    if SPACED.fullmatch(expected) or SPACED.fullmatch(found):  # math-verify reads a product
        # A comma separates thousands, or two numbers.
        return _numbers(expected) in (_numbers(found), _numbers(found.replace(",", " ")))
    if expected.startswith("[") and not found.startswith(("[", "(")):
        found = f"[{found}]"
    from math_verify import verify  # not at the top: importing sympy is slow

    of_found, of_expected = _parsed(found), _parsed(expected)
    if not of_found or not of_expected:
        return False
    if rounded and _rounds_to(of_found[0], Decimal(rounded[0])):
        return True
    return verify(of_expected, of_found, timeout_seconds=_limit())


def _boxed(text: str) -> str | None:
    """Return the content of the last \\boxed{}; None if there is none, or if it never closes."""
    _, box, rest = text.rpartition("\\boxed")
    rest = rest.lstrip()
    if not box or not rest.startswith("{"):  # \boxed 5
        return re.split(r"[\s$]", rest, maxsplit=1)[0] if box else None
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return rest[1:place]
    return None


def _last_number(text: str) -> str | None:
    return next((found[0] for found in reversed(list(NUMBER.finditer(text)))), None)


def _numbers(text: str) -> list[str]:
    return [found.replace(",", "") for found in NUMBER.findall(text)]


def _tidy(text: str) -> str:
    """Remove what has no meaning: delimiters, currency, a full stop, \\text{} around everything."""
    text = LAYOUT.sub("", text).lstrip(" \t\r\n*:").rstrip(" \t\r\n*:.,;")
    if whole := TEXT.fullmatch(text):
        text = whole[1].strip()
    text = ROOT.sub(r"\\sqrt{\1}", text)
    text = FUNCTION.sub(lambda found: "\\" + found[0], text)
    text = MIXED.sub(r"(\1+\2/\3)", text)
    return SCIENTIFIC.sub(lambda found: format(Decimal(found[0]), "f"), text)


def _parsed(text: str) -> list[Any]:
    """Parse the text as a formula in LaTeX: a list with one expression, or an empty one."""
    from math_verify import LatexExtractionConfig, parse

    word = WORD.search(COMMAND.sub(lambda found: " " * len(found[0]), text))
    if word:
        head = text[: word.start()].rstrip(" ,;:(=")
        text = head if re.search("[0-9]", head) else _last_number(text) or ""
    if not text:
        return []
    return parse(
        f"$${text}$$",
        [LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=_limit(),
    )


def _rounds_to(found: Any, expected: Decimal) -> bool:
    """Return whether a number rounds to `expected`, which must have three digits or more."""
    from sympy import Number

    _, digits, exponent = expected.as_tuple()
    if len(digits) < 3 or not isinstance(found, Number):
        return False
    try:
        return abs(float(found) - float(expected)) <= 0.5 * 10.0 ** int(exponent) * (1 + 1e-9)
    except OverflowError:
        return False


def _limit() -> int | None:
    return TIME_LIMIT if threading.current_thread() is threading.main_thread() else None
