"""Numbers as text, the same in log lines, terminal summaries and pages."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

MISSING = "–"
NOTHING = 1e-12  # what rounding leaves of a measured zero

RAW = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories that move or hide what a terminal shows


def plural(n: int, noun: str) -> str:
    """Return such as "1 pair" or "1,200 pairs"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def span(values: Sequence[int | None]) -> str:
    """Return such as "40", or "40–44" if the values differ; "unknown" if one is None."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "unknown"
    low, high = min(known), max(known)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def measured(value: float, digits: int = 3) -> str:
    """Return a measured number with so many significant digits, such as "0.163" or "12,300"."""
    if abs(value) < NOTHING:
        return "0"
    return _rounded(value, _decimals(value, digits))


def signed(value: float) -> str:
    """Return the value with its sign; the minus is as wide as the plus."""
    if abs(value) < NOTHING:
        return "0"
    return _signed(value, _decimals(value, 3))


def plus_minus(mean: float | None, error: float | None) -> str:
    """Return the mean, with its standard error if there is one."""
    if mean is None:
        return MISSING
    return measured(mean) + ("" if error is None else f" ± {measured(error, 2)}")


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """Return such as "−0.0200 [−0.0310, −0.0090]", or only the value without an interval."""
    if low is None or high is None:
        return signed(value)
    decimals = _decimals(max(value, low, high, key=abs), 3)
    value_told, low_told, high_told = (_signed(each, decimals) for each in (value, low, high))
    return f"{value_told} [{low_told}, {high_told}]"


def _decimals(value: float, digits: int) -> int:
    """Return how many decimals show `digits` significant digits; below 0 for large values."""
    if value == 0 or not math.isfinite(value):
        return digits - 1
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # after rounding: 9.996 is 10.0
    return digits - 1 - exponent


def _rounded(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{round(value, decimals):,.{max(0, decimals)}f}".replace("-", "−")


def _signed(value: float, decimals: int) -> str:
    return ("+" if value >= 0 else "") + _rounded(value, decimals)


def percent(part: float, whole: float = 1) -> str:
    """Return such as "12.3%"; "–" of nothing."""
    return f"{part / whole:.1%}" if whole else MISSING


def share(part: float, whole: float = 1) -> str:
    """Return a measured share such as "24.4%", "0.679%" or "100%"; "–" of nothing."""
    if not whole:
        return MISSING
    if part in (0, whole):
        return "100%" if part else "0%"
    return f"{measured(100 * part / whole)}%"


def short(value: float) -> str:
    """Return such as "950", "12.3k", "4.56M" or "7.8e+13": three significant digits."""
    for name, scale in (("", 1.0), ("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12)):
        if abs(value) < 999.5 * scale:
            return f"{value / scale:.3g}{name}"
    return f"{value:.3g}"


def duration(seconds: float, *, decimals: int = 1) -> str:
    """Return such as "0.8 s", "45 s", "12 min 05 s" or "3 h 20 min".

    `decimals` are those below ten seconds.
    """
    if seconds < 59.5:
        return f"{seconds:.{decimals if seconds < 9.95 else 0}f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def printable(text: str) -> str:
    """Escape control characters, line ends, and bytes of file names that are not UTF-8."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in RAW else c for c in text)


_UNUSUAL = re.compile(r"[^\n\t\x20-\x7e]")
_JOINERS = "\u200c\u200d"  # of letters and of emoji: they change no other text


def for_terminal(text: str) -> str:
    """Escape what a terminal would obey or hide, such as escape sequences and controls of
    direction. Line ends and tabs stay."""
    return _UNUSUAL.sub(lambda found: _visible(found[0]), text)


def for_json(text: str) -> str:
    """Escape the same in JSON, which stays the same value."""
    return _UNUSUAL.sub(lambda found: _visible(found[0], json=True), text)


def _visible(character: str, *, json: bool = False) -> str:
    if character in _JOINERS or unicodedata.category(character) not in RAW:
        return character
    if not json:
        return _escaped(character)
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that os.fsdecode could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def data_size(size: float) -> str:
    """Return such as "512 bytes", "1.2 kB", "34 MB" or "1,200 GB"."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5 or unit == "GB":
            return f"{size:.1f} {unit}" if size < 9.95 else f"{size:,.0f} {unit}"
    raise AssertionError


def moving(done: float, total: float, unit: str, rate: float | None, left: float | None) -> str:
    """Return such as "120 of 400 steps, 2.1/s, 2 min 14 s left"."""
    text = f"{done:,.0f} of {total:,.0f} {unit}"
    if rate:
        text += f", {rate:,.1f}/s" if rate >= 0.1 else f", {60 * rate:.1f}/min"
    if left is not None:
        text += f", {duration(left, decimals=0)} left"
    return text
