"""The answer in a generated text, and whether it is the wanted one. Pure functions, no I/O.

Extracted is, of the first of these that the text has: the sentence after the last "The answer is"
(or a \\boxed{} in what follows); the content of the last \\boxed{}; the last number. A text with
none of them has no answer.

Right is the same text (case apart), or what math-verify (the package math-verify, its parse and
verify) finds equal. Before it is asked:

- A wanted option (B) is met by its letter alone: "B", "(B)", "B. web", "option B".
- Numbers apart by spaces (7 1 -1) are a list, wanted in this order with any separators; brackets
  around a wanted list ([3, 5]) may be left out. A fraction behind a whole number is added to it.
- Where one side alone has a percent sign at its end, it may be left out.
- A wanted decimal or 2.2e+07 of three digits or more counts as rounded to them: 583.3333 is met by
  1750/3.
- Of words around a number the number counts: "18 dollars", "18, because she sold two", and of a
  number with a unit: "60 km/h".

Wanted is of a text with "####", which GSM8K has before its answers, what follows the last of them.
"""

from __future__ import annotations

import re
import threading
from decimal import Decimal
from typing import Any

RULE = 3  # counts the versions of the rule: part of what identifies a stage of answers
TIME_LIMIT = 5  # seconds for math-verify to read a text, or to compare two
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

# Delimiters of formulas, thin spaces, currencies, "about": of no meaning here. (Not the \\[ of a
# new row.)
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
    """The answer that a generated text gives, as it stands there; None if it gives none."""
    markers = [found.end() for found in MARKER.finditer(generated)]
    if markers:
        tail = generated[markers[-1] :]
        found = _boxed(tail) or SENTENCE_END.split(tail.lstrip(" \t\r\n:*"), maxsplit=1)[0]
    else:
        found = _boxed(generated) or _last_number(generated) or ""
    return found.strip() if _tidy(found) else None


def wanted_of(text: str) -> str:
    """The wanted answer in the answer column of a set of questions."""
    return text.rpartition("####")[2].strip()


def is_right(found: str, wanted: str) -> bool:
    """Whether an extracted answer is the wanted one.

    math-verify keeps its time limits by an alarm signal, which only the main thread of a process
    can set; called in another thread, this has no limit.
    """
    rounded = DECIMAL.fullmatch(wanted.strip())
    found, wanted = _tidy(found), _tidy(wanted)
    if found.casefold() == wanted.casefold():
        return True
    bare = [PERCENT.sub("", text) for text in (found, wanted)]
    if (bare[0] == found) != (bare[1] == wanted) and is_right(*bare):
        return True
    if NUMBER.fullmatch(wanted):
        found = UNIT.sub("", found)
    if option := OPTION.fullmatch(wanted):
        letter = CHOSEN.match(found)
        return letter is not None and letter[1] == option[1]
    if SPACED.fullmatch(wanted) or SPACED.fullmatch(found):  # to math-verify a product
        # A comma is one of thousands or between two numbers.
        return _numbers(wanted) in (_numbers(found), _numbers(found.replace(",", " ")))
    if wanted.startswith("[") and not found.startswith(("[", "(")):
        found = f"[{found}]"
    from math_verify import verify  # here alone: sympy takes its time to import

    of_found, of_wanted = _parsed(found), _parsed(wanted)
    if not of_found or not of_wanted:
        return False
    if rounded and _rounds_to(of_found[0], Decimal(rounded[0])):
        return True
    return verify(of_wanted, of_found, timeout_seconds=_limit())


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{}; None if there is none, or it never closes."""
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
    """Without what carries no meaning: delimiters, currency, a full stop, \\text{} around all."""
    text = LAYOUT.sub("", text).lstrip(" \t\r\n*:").rstrip(" \t\r\n*:.,;")
    if whole := TEXT.fullmatch(text):
        text = whole[1].strip()
    text = ROOT.sub(r"\\sqrt{\1}", text)
    text = FUNCTION.sub(lambda found: "\\" + found[0], text)
    text = MIXED.sub(r"(\1+\2/\3)", text)
    return SCIENTIFIC.sub(lambda found: format(Decimal(found[0]), "f"), text)


def _parsed(text: str) -> list[Any]:
    """The text as math-verify reads it, a formula in LaTeX: one expression, or none."""
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


def _rounds_to(found: Any, wanted: Decimal) -> bool:
    """Whether a number is `wanted` within half a unit of its last digit, of three or more."""
    from sympy import Number

    _, digits, exponent = wanted.as_tuple()
    if len(digits) < 3 or not isinstance(found, Number):
        return False
    try:
        return abs(float(found) - float(wanted)) <= 0.5 * 10.0 ** int(exponent) * (1 + 1e-9)
    except OverflowError:
        return False


def _limit() -> int | None:
    return TIME_LIMIT if threading.current_thread() is threading.main_thread() else None
