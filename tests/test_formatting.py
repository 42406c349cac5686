import math

from s2l_ray.formatting import (
    data_size,
    duration,
    measured,
    moving,
    percent,
    plural,
    plus_minus,
    printable,
    signed,
    span,
    with_interval,
)


def test_counts():
    assert (plural(1, "pair"), plural(0, "pair"), plural(1200, "pair")) == (
        "1 pair", "0 pairs", "1,200 pairs",
    )  # fmt: skip
    assert (span([40, 40]), span([1044, 40])) == ("40", "40–1,044")


def test_numbers_with_signs_and_errors():
    assert (signed(-0.02), signed(0.0)) == ("−0.0200", "0")
    assert with_interval(-0.02, -0.04, 0.001) == "−0.0200 [−0.0400, +0.0010]"
    assert with_interval(0.5, None, None) == "+0.500"
    assert plus_minus(1.0, 0.25) == "1.00 ± 0.25"
    assert plus_minus(2.9563, 0.00521) == "2.96 ± 0.0052"
    assert (plus_minus(1.0, None), plus_minus(None, None)) == ("1.00", "–")
    assert (percent(0.123), percent(1, 3), percent(1, 0)) == ("12.3%", "33.3%", "–")


def test_measured_numbers_have_at_most_three_significant_digits():
    values = (0.16341, 2.9563, 12.34, 123.4, 12345.0, 9.996, 1e-17, -0.00012345, 1e-6)
    assert [measured(value) for value in values] == [
        "0.163", "2.96", "12.3", "123", "12,300", "10.0", "0", "−0.000123", "0.00000100",
    ]  # fmt: skip
    assert measured(0.00521, 2) == "0.0052"
    assert (measured(math.nan), signed(-math.inf)) == ("not finite", "not finite")


def test_durations():
    seconds = (0.4, 9.94, 9.96, 59.4, 59.6, 3599, 3600, 93784)
    assert [duration(each) for each in seconds] == [
        "0.4 s", "9.9 s", "10 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "26 h 03 min",
    ]  # fmt: skip
    assert [duration(each, decimals=0) for each in (0.4, 9.6)] == ["0 s", "10 s"]


def test_text_that_would_move_or_hide_what_a_terminal_shows():
    assert printable("a b é 漢 😀 \N{NO-BREAK SPACE}") == "a b é 漢 😀 \N{NO-BREAK SPACE}"
    assert printable("\x1b[31m\r\n\t\0\x85\u2028\u202e") == (r"\x1b[31m\r\n\t\x00\x85\u2028\u202e")
    assert printable("half \ud83d, byte \udce9") == r"half \ud83d, byte \xe9"


def test_sizes_and_progress():
    sizes = [0, 999, 1000, 9_949, 34_499, 999_499, 2_500_000, 1_200e9]
    assert [*map(data_size, sizes)] == [
        "0 bytes", "999 bytes", "1.0 kB", "9.9 kB", "34 kB", "999 kB", "2.5 MB", "1,200 GB",
    ]  # fmt: skip
    assert moving(120, 4000, "steps", 2.14, 135.0) == ("120 of 4,000 steps, 2.1/s, 2 min 15 s left")
    assert moving(1, 4, "parts", 0.025, 120.0) == "1 of 4 parts, 1.5/min, 2 min 00 s left"
    assert moving(0, 4, "parts", 0.0, None) == "0 of 4 parts"
