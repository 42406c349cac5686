"""Selection laws in words, for the log, the terminal and the pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from s2l_ray.analysis.laws import SEEDS, Law, Tally, alike, law, pair
from s2l_ray.config import BASELINE
from s2l_ray.formatting import MISSING, measured, share

ALIKE = 0.02  # total variation below which a subset has nearly the corpus's distribution
HEADS = ("selector", "highest tenth", "TV loss", "TV length", "TV source", "effective", "reach")
RANKS = ("", "second ", "third ", "fourth ", "fifth ")


def headline(found: Law) -> str:
    """Say from which losses more is chosen than their share of the corpus."""
    subset, corpus = (np.array(shares["loss"]) for shares in (found.subset, found.corpus))
    moved = found.total_variation("loss")
    distance = f"total variation from uniform {moved:.2f}"
    if moved < ALIKE:
        return f"The subset’s losses are spread like the corpus’s ({distance})"
    most = int((subset - corpus).argmax())
    part = "tenth" if abs(corpus[most] - 0.1) < 0.005 else share(float(corpus[most]))
    below, above = most, len(subset) - 1 - most
    place = f"{RANKS[above]}highest" if above < below else f"{RANKS[below]}lowest"
    return (
        f"{share(float(subset[most]))} of the subset comes from the {part} of examples with the "
        f"{place} loss ({distance})"
    )


def sentences(found: Law) -> list[str]:
    """Say how many examples can be chosen, and what the subset is worth as a sample."""
    told, whole = [], "the corpus" if found.reach == 1 else "these"
    if found.reach < 1:
        told.append(f"{share(found.reach)} of the examples can be chosen, the others cannot.")
    chosen, effective = round(found.chosen), round(found.effective)
    if found.reach * found.examples > found.chosen * 1.001:
        told.append(
            f"To estimate a mean over {whole}, the {chosen:,} chosen ones are worth {effective:,} "
            f"uniformly drawn ones (Kish’s effective sample size)."
        )
    told.append(
        f"The total variation of their lengths from the corpus’s is "
        f"{found.total_variation('length'):.2f}."
    )
    return told


def rows(names: Sequence[str], found: Tally) -> list[list[str]]:
    """Return the heads, then a row per selection: the share of it that has the highest losses, and
    so on; last the least share in which it differs from a random subset, if that is one of them."""
    baseline = names.index(BASELINE) if BASELINE in names else None
    told = [[*HEADS] if baseline is None else [*HEADS, f"from {BASELINE}"]]
    for place, name in enumerate(names):
        mine = law(found, place)
        distances = [f"{mine.total_variation(of):.2f}" for of in ("loss", "length", "source")]
        top = share(mine.subset["loss"][-1])
        told.append([name, top, *distances, f"{mine.effective:,.0f}", share(mine.reach)])
        if baseline is not None:
            told[-1].append(share(pair(found, baseline, place).differ))
    return told


def table(names: Sequence[str], found: Tally) -> list[str]:
    """Return the lines of `rows`, in columns."""
    told = rows(names, found)
    widths = [max(map(len, column)) for column in zip(*told, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in told
    ]


def alike_told(
    names: Sequence[str],
    found: Tally,
    differ: Callable[[int, int], float] | None = None,
) -> list[str]:
    """Say which selections have subsets that differ by no more than draws do, a sentence per pair.

    differ: the share in which the subsets of two of them differ, if there are any.
    """
    told = []
    for one, other in alike(found):
        subsets = f"The subsets of {names[one]} and {names[other]} differ"
        if differ is not None:
            counted, by_draw = share(differ(one, other)), share(pair(found, one, other).by_draw)
            subsets += (
                f" in {counted} of their examples, two draws of one of them in {by_draw}. They "
                f"differ"
            )
        told.append(
            f"{subsets} by no more than draws do, by loss, length and source: a difference between "
            f"their targets is unlikely to show with {SEEDS} seeds."
        )
    return told


def correlation_told(correlation: float | None) -> str:
    """Return a correlation of inclusion probabilities; a dash if one of them does not vary."""
    return MISSING if correlation is None else measured(correlation, 3)
