"""Answers in generated texts, by hand, in the forms of six math sets; odd texts."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.evaluation import answers
from s2l_ray.evaluation.answers import expected_answer, extract, is_right


@pytest.mark.parametrize(
    ("generated", "found"),
    [
        ("She has 3 + 4 = 7.\nThe answer is 7", "7"),
        ("The answer is 7. The answer is 8.\nQuestion: what is 9?", "8"),
        ("the  answer is: **1,234.50 dollars**.", "1,234.50 dollars**"),
        ("The answer is $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("So \\boxed{3}. The answer is B. tree", "B"),
        ("The answer is therefore\n\\[\\boxed{\\frac{a}{b}}\\]", "\\frac{a}{b}"),
        ("\\boxed{1} and then $\\boxed{\\sqrt{x^{2}}}$, is 5.", "\\sqrt{x^{2}}"),
        ("it is $\\boxed 5$.", "5"),
        ("cut short: 12 = \\boxed{3", "3"),
        ("2 of 16 - 3 = <<16-3=13>>13\n#### 1,018", "1,018"),
        ("it costs $4.50.", "$4.50"),
        ("10-3 is -7 or so", "-7"),
        ("10-3", "3"),
        ("that is 3/4", "3/4"),
        ("it takes 2 1/2 hours", "2 1/2"),
        ("The answer is Rs. 300. Next", "Rs. 300"),
        ("The answer is approx. 5.5.", "approx. 5.5"),
        ("nothing here", None),
        ("The answer is", None),
        ("7. The answer is .\n", None),
        ("", None),
    ],
)
def test_what_is_extracted(generated, found):
    assert extract(generated) == found


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        # gsm8k, svamp: numbers
        ("18", "18"), ("$18", "18"), ("18.0", "18"), ("18 dollars a day", "18"), ("x = 18", "18"),
        ("18, because she sold two", "18"), ("18, since 9*2=18", "18"), ("18 (dollars)", "18"),
        ("18; she sold two", "18"), ("18, so she makes 18 dollars", "18"), ("5 (five)", "5"),
        ("10, which is 20% of 50", "10"), ("10 in", "10"), ("£12.50", "12.5"), ("~5", "5"),
        ("Rs. 300", "300"), ("approx. 5.5", "5.5"), ("`5`", "5"), ("60 km/h", "60"),
        ("12 L", "12"), ("440 cm^2", "440"), ("45°", "45"), ("5 m/s", "5"), ("3.5 kg", "3.5"),
        ("70,000", "70000"), ("-10", "-10"), ("about 18 eggs", "18"),
        ("22090603", "2.20906e+07"), ("2.20906e+07", "2.20906e+07"),
        # math: LaTeX
        ("\\frac97", "\\dfrac{9}{7}"), ("9/7", "\\dfrac{9}{7}"), ("14400", "14,\\!400"),
        ("$2\\sqrt{22}$", "\\sqrt{88}"), ("39", "39^\\circ"), ("18.9", "\\$18.90"),
        ("44", "44\\%"), ("Evelyn", "\\text{Evelyn}"), ("evelyn.", "\\text{Evelyn}"),
        ("2 1/2 hours", "2.5"), ("3 1/2", "7/2"), ("-2 1/3", "-7/3"), ("2 1/3", "\\frac73"),
        ("sqrt(2)", "\\sqrt{2}"), ("2*sqrt(22)", "\\sqrt{88}"), ("pi/2", "\\frac{\\pi}{2}"),
        ("12.5%", "12.5"), ("50%", "50.0"), ("7.2", "7.2\\%"), ("44.0", "44\\%"), ("50%", "0.5"),
        ("(C)", "\\text{(C)}"), ("x \\in (-\\infty, 2]", "x \\in (-\\infty,2]"),
        ("(-\\infty, 2]", "(-\\infty,2]"), ("-3 \\text{ or } 6", "6, -3"), ("i + 1", "1+i"),
        ("\\begin{pmatrix}6\\\\3\\end{pmatrix}", "\\begin{pmatrix} 6 \\\\ 3 \\end{pmatrix}"),
        # numglue: options and words
        ("B", "B"), ("(B)", "B"), ("B. web", "B"), ("option (B)", "B"), ("Choice B", "B"),
        ("B (10)", "B"), ("(B) web", "B"), ("august", "August"),
        # mathematics: lists, expressions, decimals
        ("7, 1, -1", "7 1 -1"), ("100,200,300", "100 200 300"), ("1,000, 5", "1000 5"),
        ("3, 5", "[3, 5]"), ("[3,5]", "[3, 5]"), ("3", "[3]"),
        ("-20x", "-20*x"), ("1363", "1363.0"), ("-2/5", "-0.4"),
        # simuleq: rounded
        ("1750/3", "583.3333"), ("583.33333", "583.3333"), ("\\frac{2}{3}", "0.6667"),
    ],
)  # fmt: skip
def test_what_is_right(found, wanted):
    assert is_right(found, wanted)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("19", "18"), ("-18", "18"), ("1.8", "18"), ("5x + 3", "5"), ("18 or 19", "18"),
        ("\\frac79", "\\dfrac{9}{7}"), ("(2,1)", "(1,2)"), ("2\\sqrt{23}", "2\\sqrt{22}"),
        ("A", "B"), ("(A) web", "B"), ("web", "B"), ("Basket", "B"), ("Friday", "August"),
        ("1, 7, -1", "7 1 -1"), ("6", "7 1 -1"), ("7 1 -1", "6"), ("5, 3", "[3, 5]"),
        ("-20", "-20*x"), ("-20y", "-20*x"), ("0.42", "0.4"), ("583.334", "583.3333"),
        ("583", "583.3333"), ("22090703", "2.20906e+07"), ("no idea", "7"), ("", "7"),
        ("\\frac{", "7"), ("7", "\\frac{"), ("2 1/3", "1"), ("1 3/4", "1"), ("sqrt(2)", "2"),
        ("log(5)", "5"), ("5x", "5"), ("5 x", "5"), ("12.5%", "125"), ("option A", "B"),
        ("19, because 18 are sold", "18"), ("100,200", "100 200 300"),
    ],
)  # fmt: skip
def test_what_is_wrong(found, wanted):
    assert not is_right(found, wanted)


def test_expected_answers_of_gsm8k_follow_hashes():
    assert expected_answer("In 5 days she drank 3*5=<<3*5=15>>15 cups.\n#### 72") == "72"
    assert expected_answer("#### 1\n#### -2,000 ") == "-2,000"
    assert expected_answer(" \\frac{1}{2} ") == "\\frac{1}{2}"


def test_a_number_beyond_all_computing_is_given_up(monkeypatch):
    monkeypatch.setattr(answers, "TIME_LIMIT", 1)
    began = time.monotonic()
    assert not is_right("9^{9^{9^9}}", "5")
    assert time.monotonic() - began < 30


def test_it_works_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(is_right("1/2", "\\frac12")))
    thread.start()
    thread.join()
    assert found == [True]


PIECES = ["The answer is ", "\\boxed{", "\\frac", "{", "}", "$", "\\", "1", "-2.5", "3/0", "^",
          "_", "(", "]", ",", " ", "\n", "x", "=", "e9", "\\text{", "\\begin{pmatrix}", "&", "%",
          "\\sqrt", "<", "\\infty", "words", "٣", "\0", "½"]  # fmt: skip
ODD = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


@settings(max_examples=300, deadline=None)
@given(generated=ODD, wanted=st.one_of(ODD, st.just("5")))
def test_no_text_raises(generated, wanted):
    found = extract(generated)
    assert found is None or found.strip()
    assert is_right(generated, wanted) in (True, False)
    assert is_right(wanted, wanted)
