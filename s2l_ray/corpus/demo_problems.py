"""The problems of the demo corpus: sixteen sources, seeded, with known answers.

A source is a function from a random generator to (question, working, answer). All answers are
right except in `noisy_arithmetic`. `comparison` makes near duplicates, and `short_answers` shows
no working. Alternative phrasings of a text are separated by " | ".
"""

from __future__ import annotations

import math
from datetime import date, timedelta
from fractions import Fraction
from itertools import accumulate, pairwise
from random import Random

Problem = tuple[str, str, str]
NAMES = "Amara Ben Chloé Diego Elif Farid Grace Hiro Ines José Lena Malik Nora Zoë"
GOODS = "apples pencils notebooks candles mugs posters stickers scarves puzzles tarts"
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"

WORDS = (
    "anchor basket candle dragon engine forest garden hammer island jacket kettle ladder marble "
    "needle orange pepper quartz ribbon saddle teapot umbrella violin window yellow zipper banana "
    "balloon committee letter mississippi parallel bookkeeper coffee tomorrow success"
)

ROMAN_SHAPES = "a aa aaa ab b ba baa baaa ac"  # 1 to 9; a, b, c are I, V, X for ones, and so on

UNITS = (  # singular, plural, the smaller unit, how many of it make one
    "kilometer kilometers meters 1000 | meter meters centimeters 100 | foot feet inches 12 | "
    "kilogram kilograms grams 1000 | liter liters milliliters 1000 | week weeks days 7 | "
    "hour hours minutes 60 | minute minutes seconds 60 | day days hours 24 | "
    "yard yards feet 3 | pound pounds ounces 16 | gallon gallons quarts 4"
)


def _pick(rng: Random, phrasings: str) -> str:
    return rng.choice(phrasings.split(" | "))


def addition_subtraction(rng: Random, error: int = 0) -> Problem:
    """Sums and differences of numbers up to 1000; the answer is off by `error`."""
    b, a = sorted(rng.randint(1, 10 ** rng.randint(1, 3)) for _ in range(2))
    if rng.random() < 0.5:
        asks = f"What is {a} + {b}? | Add {b} to {a}. | Find the sum of {a} and {b}."
        return _pick(rng, asks), f"{a} + {b} = {a + b + error}.", str(a + b + error)
    asks = f"What is {a} - {b}? | Subtract {b} from {a}. | Work out {a} minus {b}."
    return _pick(rng, asks), f"{a} - {b} = {a - b + error}.", str(a - b + error)


def noisy_arithmetic(rng: Random) -> Problem:
    """`addition_subtraction` with a wrong answer."""
    return addition_subtraction(rng, error=rng.choice((-1, 1)) * rng.randint(1, 20))


def multiplication(rng: Random) -> Problem:
    """A two- or three-digit number times a two-digit one, by partial products."""
    a, tens, ones = rng.randint(12, 499), 10 * rng.randint(1, 9), rng.randint(1, 9)
    b, answer = tens + ones, a * (tens + ones)
    asks = f"What is {a} x {b}? | Multiply {a} by {b}. | Find the product of {a} and {b}."
    working = (
        f"Split {b} into {tens} and {ones}. {a} x {tens} = {a * tens} and {a} x {ones} = "
        f"{a * ones}. Adding the partial products, {a * tens} + {a * ones} = {answer}."
    )
    return _pick(rng, asks), working, str(answer)


def fractions(rng: Random) -> Problem:
    """Sum or difference of two proper fractions with different denominators."""
    (n1, d1), (n2, d2) = ((rng.randint(1, d - 1), d) for d in rng.sample(range(2, 16), 2))
    if n1 * d2 < n2 * d1:
        n1, d1, n2, d2 = n2, d2, n1, d1
    sign, bottom = rng.choice("+-"), math.lcm(d1, d2)
    left, right = n1 * bottom // d1, n2 * bottom // d2
    top = left + right if sign == "+" else left - right
    answer, problem = str(Fraction(top, bottom)), f"{n1}/{d1} {sign} {n2}/{d2}"
    asks = f"What is {problem}? | Compute {problem} in lowest terms. | Simplify {problem}."
    working = f"A common denominator of {d1} and {d2} is {bottom}. "
    working += f"{left}/{bottom} {sign} {right}/{bottom} = {top}/{bottom}"
    simplified = "" if answer == f"{top}/{bottom}" else f", which simplifies to {answer}"
    return _pick(rng, asks), f"{working}{simplified}.", answer


def linear_equations(rng: Random) -> Problem:
    """One unknown with a whole solution; the unknown on one side or on both."""
    var, slope, answer = rng.choice("xyznt"), rng.randint(2, 9), rng.randint(-12, 12)
    sign, offset, extra = rng.choice("+-"), rng.randint(1, 40), rng.choice((0, rng.randint(2, 9)))
    right = slope * answer + (offset if sign == "+" else -offset)
    reduced = f"{slope}{var} {sign} {offset} = {right}"
    equation, working = reduced, ""
    if extra:
        constant = f" {'-' if right < 0 else '+'} {abs(right)}" if right else ""
        equation = f"{slope + extra}{var} {sign} {offset} = {extra}{var}{constant}"
        working = f"Subtract {extra}{var} from both sides: {reduced}. "
    working += f"Subtract {offset} from" if sign == "+" else f"Add {offset} to"
    working += f" both sides: {slope}{var} = {slope * answer}. "
    working += f"Divide both sides by {slope}: {var} = {answer}."
    asks = f"Solve for {var}: {equation} | Find the value of {var} if {equation}. | "
    asks += f"What is {var} when {equation}? Show the steps."
    return _pick(rng, asks), working, str(answer)


def percentages(rng: Random) -> Problem:
    """A percentage of a number, or a price after a rise or fall."""
    name, thing = rng.choice(NAMES.split()), _pick(rng, "coat | bicycle | phone | lamp | tent")
    percent, whole = 5 * rng.randint(1, 19), 20 * rng.randint(2, 60)
    part = percent * whole // 100
    if rng.random() < 0.5:
        asks = f"What is {percent}% of {whole}? | Find {percent} percent of {whole}."
        working = f"{percent}% means {percent}/100. {percent} x {whole} / 100 = {part}."
        return _pick(rng, asks), working, str(part)
    verb, sign, price = rng.choice((("rises", "+", whole + part), ("falls", "-", whole - part)))
    ask = f"{name} wants a {thing} that costs €{whole}, and then its price {verb} by {percent}%. "
    ask += _pick(rng, "What is the new price in euros? | How many euros does it cost now?")
    working = f"The change is {percent}% of {whole}, that is {percent} x {whole} / 100 = {part}. "
    return ask, f"{working}The new price is {whole} {sign} {part} = {price} euros.", str(price)


def shopping(rng: Random) -> Problem:
    """Money left after buying two kinds of goods."""
    (name, friend), (these, those) = rng.sample(NAMES.split(), 2), rng.sample(GOODS.split(), 2)
    n, m, p, q = (rng.randint(3, 15) for _ in range(4))
    total, cash = n * p + m * q, n * p + m * q + rng.randint(1, 60)
    asks = f"{name} goes to the market with ${cash} | {name} has ${cash} to spend"
    ask = _pick(rng, f"{asks} | {friend} gives {name} ${cash} for the school fair")
    ask += f". {name} buys {n} {these} at ${p} each and {m} {those} at ${q} each. "
    ask += _pick(rng, f"How many dollars does {name} have left? | How many dollars remain?")
    working = (
        f"The {these} cost {n} x {p} = {n * p} dollars and the {those} cost {m} x {q} = {m * q} "
        f"dollars. Together that is {n * p} + {m * q} = {total} dollars. {name} started with "
        f"{cash} dollars, so {cash} - {total} = {cash - total} dollars are left."
    )
    return ask, working, str(cash - total)


def travel(rng: Random) -> Problem:
    """A trip in two legs, or two travelers who set out toward each other."""
    name, friend = rng.sample(NAMES.split(), 2)
    v, w, hours, more = (rng.randint(*span) for span in ((8, 60), (8, 60), (2, 9), (2, 9)))
    first, second, apart = v * hours, w * more, (v + w) * hours
    if rng.random() < 0.5:
        ask = f"{name} {_pick(rng, 'rides | drives')} for {hours} hours at {v} km/h and, after a "
        ask += f"break, for {more} hours at {w} km/h. "
        ask += _pick(rng, "How many kilometers is the whole trip? | How far is that in km?")
        working = f"The first part is {v} x {hours} = {first} km and the second is {w} x {more} = "
        working += f"{second} km. In all, {first} + {second} = {first + second} km."
        return ask, working, str(first + second)
    ask = f"Two towns are {apart} km apart. {name} leaves one of them at {v} km/h while {friend} "
    ask += f"leaves the other at {w} km/h, and they move toward each other. "
    ask += _pick(rng, "After how many hours do they meet? | How many hours pass until they meet?")
    working = f"Every hour the gap between {name} and {friend} shrinks by {v} + {w} = {v + w} km. "
    return ask, f"{working}They meet after {apart} / {v + w} = {hours} hours.", str(hours)


def unit_conversion(rng: Random) -> Problem:
    """From a larger unit to a smaller one or back, halves included."""
    one, old, new, factor = _pick(rng, UNITS).split()
    start, sign, small = rng.randint(4, 300) / 2, "x", new
    end = start * int(factor)
    if rng.random() < 0.5:
        start, end, sign, old, new = end, start, "/", new, old
    asks = f"Convert {start:g} {old} to {new}. | How many {new} are there in {start:g} {old}?"
    working = f"One {one} is {factor} {small}, so {start:g} {old} is {start:g} {sign} {factor} = "
    return _pick(rng, asks), f"{working}{end:g} {new}.", f"{end:g}"


def dates(rng: Random) -> Problem:
    """The weekday some days ahead, or the date (in the next month) some days ahead."""
    if rng.random() < 0.5:
        week, days = WEEKDAYS.split(), rng.randint(8, 400)
        today = rng.choice(week)
        ask = f"If today is {today}, what day of the week will it be in {days} days?"
        answer = week[(week.index(today) + days) % 7]
        working = f"{days} = {days // 7} x 7 + {days % 7}, and whole weeks change nothing. "
        return ask, f"{working}{today} plus {days % 7} is {answer}.", answer
    start = date(rng.randint(1950, 2049), rng.randint(1, 12), rng.randint(1, 26))
    month_end = (start.replace(day=1) + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    left, rest = (month_end - start).days, rng.randint(2, 28)
    end = month_end + timedelta(days=rest)
    month, next_month = (MONTHS.split()[day.month - 1] for day in (start, end))
    first, last = f"{start.day} {month} {start.year}", f"{end.day} {next_month} {end.year}"
    asks = f"What date is {left + rest} days after {first}? | Add {left + rest} days to {first}."
    working = f"{month} {start.year} has {month_end.day} days, {left} of them after {first}. "
    return _pick(rng, asks), f"{working}The other {rest} days lead to {rest} {next_month}.", last


def lists(rng: Random) -> Problem:
    """Sort a list of numbers, or find its largest, smallest or sum."""
    numbers = rng.sample(range(1, 100), rng.randint(4, 8))
    shown, ordered = ", ".join(map(str, numbers)), sorted(numbers)
    kind = _pick(rng, "ascending | descending | largest | smallest | sum")
    working = f"The smallest number is {ordered[0]} and the largest is {ordered[-1]}."
    if kind in ("ascending", "descending"):
        answer = ", ".join(map(str, ordered if kind == "ascending" else ordered[::-1]))
        asks = f"Sort these numbers in {kind} order: {shown} | Put {shown} in {kind} order."
        return _pick(rng, asks), working, answer
    asks = f"Find the {kind} of these numbers: {shown} | Here is a list: {shown}. Give its {kind}."
    if kind == "sum":
        steps = ", ".join(f"{s} + {t - s} = {t}" for s, t in pairwise(accumulate(numbers)))
        return _pick(rng, asks), f"Keep a running total: {steps}.", str(sum(numbers))
    return _pick(rng, asks), working, str(ordered[-1] if kind == "largest" else ordered[0])


def strings(rng: Random) -> Problem:
    """Reverse letters, count a letter, or change to capitals."""
    words = rng.sample(WORDS.split(), 2)
    text, letter = " ".join(words), rng.choice(rng.choice(words))
    kind = rng.randrange(3)
    if kind == 0:
        joined, answer = "".join(words), "".join(words)[::-1]
        asks = f'Reverse the letters of "{joined}". | Write "{joined}" backwards.'
        return _pick(rng, asks), f"Reading from the end: {'-'.join(answer)}.", answer
    if kind == 1:
        asks = f'How many times does the letter {letter} occur in "{text}"? | '
        asks += f'Count the letter {letter} in "{text}".'
        counts = " and ".join(f"{word.count(letter)} in {word}" for word in words)
        return _pick(rng, asks), f"Word by word: {counts}.", str(text.count(letter))
    asks = f'Write "{text}" in capital letters. | Convert "{text}" to uppercase.'
    return _pick(rng, asks), "Every letter becomes a capital.", text.upper()


def sequences(rng: Random) -> Problem:
    """The next term after a constant step or a constant factor."""
    first, step, factor = rng.randint(1, 200), rng.randint(2, 60), rng.randint(2, 5)
    terms = [first + step * i for i in range(6)]
    rule = f"Each term is {step} more than the one before: {terms[4]} + {step} = {terms[5]}."
    if rng.random() < 0.5:
        terms = [first * factor**i for i in range(6)]
        rule = f"Each term is {factor} times the one before: {terms[4]} x {factor} = {terms[5]}."
    shown = ", ".join(map(str, terms[:5]))
    asks = f"What number comes next: {shown}? | Continue the sequence {shown} by one term."
    return _pick(rng, asks), rule, str(terms[5])


def roman_numerals(rng: Random) -> Problem:
    """Roman numerals up to 3999, written or read digit by digit."""
    n, parts = rng.randint(11, 3999), []
    for power, letters in ((1000, "M__"), (100, "CDM"), (10, "XLC"), (1, "IVX")):
        if digit := n // power % 10:
            shape = ROMAN_SHAPES.split()[digit - 1]
            parts.append((digit * power, shape.translate(str.maketrans("abc", letters))))
    written = "".join(letters for _, letters in parts)
    if rng.random() < 0.5:
        asks = f"Write {n} as a Roman numeral. | What is {n} in Roman numerals?"
        steps = ", ".join(f"{value} is {letters}" for value, letters in parts)
        return _pick(rng, asks), f"Digit by digit, {steps}.", written
    asks = f"Which number is the Roman numeral {written}? | Read the Roman numeral {written}."
    steps = ", ".join(f"{letters} is {value}" for value, letters in parts)
    return _pick(rng, asks), f"Part by part, {steps}.", str(n)


def short_answers(rng: Random) -> Problem:
    """Mental arithmetic that asks only for the result."""
    a, b, c = (rng.randint(2, 40) for _ in range(3))
    cases = ((f"{a} + {b} x {c}", a + b * c), (f"({a} + {b}) x {c}", (a + b) * c))
    text, answer = rng.choice((*cases, (f"{a} x {b} - {c}", a * b - c)))
    asks = f"Reply with the result only: {text} | {text} = ? Just the number, please."
    return _pick(rng, asks), "", str(answer)


def comparison(rng: Random) -> Problem:
    """One template with two numbers in it: near duplicates."""
    a, b = rng.sample(range(100, 200), 2)
    ask = f"Which of these two numbers is larger, {a} or {b}?"
    return ask, f"{max(a, b)} is larger than {min(a, b)}.", str(max(a, b))
