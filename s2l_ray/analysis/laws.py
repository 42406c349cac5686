"""The law of a selection: each example's probability to be chosen, over all draws.

It follows from the groups and quotas alone, before anything is trained: `quota / size` of the
example's group for selectors that draw, and 0 or 1 for selectors that rank. docs/laws.md has the
formulas.

Everything here is sums over examples, so tallies of parts add up. N examples, S selections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

TENTHS = np.arange(1, 10) / 10
ROUNDING = 1e-9  # shares that differ by less are equal

APART = 0.02  # share of examples in which subsets that are alike differ at most
SEEDS = 6  # of the draws that subsets which are alike do not stand out from


class Bins(NamedTuple):
    """The bin of each example [N] by one property, and how many bins there are."""

    of_N: np.ndarray
    number: int


class Spread(NamedTuple):
    """Examples by the bins X of one property."""

    corpus_X: np.ndarray  # examples
    chosen_SX: np.ndarray  # chosen ones, on average over draws


class Tally(NamedTuple):
    """Sums over examples, for the probabilities p of S selections.

    uniform_S: whether each is one uniform draw. The others rank, or draw a quota from each of
    several groups.
    """

    examples: int
    uniform_S: np.ndarray
    spreads: dict[str, Spread]  # by property
    reach_S: np.ndarray  # examples with p > 0
    inverse_S: np.ndarray  # sum of 1 / p over these
    products_SS: np.ndarray  # sum of p p'
    least_SS: np.ndarray  # sum of min(p, p')

    @property
    def chosen_S(self) -> np.ndarray:
        return self.least_SS.diagonal()


def tally(
    chance_SN: np.ndarray, bins: Mapping[str, Bins], uniform_S: Sequence[bool] | None = None
) -> Tally:
    """Sum up probabilities of N examples, which have these bins by property.

    uniform_S: see Tally; None if no selection is a uniform draw.
    """
    held_SN = chance_SN > 0
    inverse_SN = np.divide(1.0, chance_SN, where=held_SN, out=np.zeros(chance_SN.shape))
    least_SS = [[float(np.minimum(one, other).sum()) for other in chance_SN] for one in chance_SN]
    return Tally(
        chance_SN.shape[1],
        np.array([False] * len(chance_SN) if uniform_S is None else uniform_S),
        {
            name: Spread(
                np.bincount(of_N, minlength=number),
                np.array([np.bincount(of_N, each, number) for each in chance_SN]),
            )
            for name, (of_N, number) in bins.items()
        },
        held_SN.sum(axis=1),
        inverse_SN.sum(axis=1),
        chance_SN @ chance_SN.T,
        np.array(least_SS),
    )


def add(one: Tally, other: Tally) -> Tally:
    """Return the tally of the examples of both, for the same selections."""
    spreads = {
        name: Spread(*(a + b for a, b in zip(mine, other.spreads[name], strict=True)))
        for name, mine in one.spreads.items()
    }
    sums = (a + b for a, b in zip(one[3:], other[3:], strict=True))
    return Tally(one.examples + other.examples, one.uniform_S, spreads, *sums)


def tenths(values: np.ndarray) -> np.ndarray:
    """Return the edges between tenths of the values; fewer if many values are equal."""
    return np.unique(np.quantile(values, TENTHS))


def bin_of(values: np.ndarray, edges: np.ndarray) -> Bins:
    """Return the bin of each value; a value on an edge belongs to the bin above."""
    return Bins(np.searchsorted(edges, values, "right"), len(edges) + 1)


@dataclass(frozen=True)
class Law:
    """What one selection chooses, on average over draws.

    reach: share of the examples that can be chosen at all. effective: Kish's effective sample size,
    (sum w)^2 / sum w^2 over the subset with weights w = 1 / p, which is reach^2 / sum(1 / p) on
    average: a uniform draw of so many of the examples within reach estimates their mean as well as
    the weighted subset does.
    """

    examples: int
    chosen: float
    reach: float
    effective: float
    corpus: dict[str, list[float]]  # shares of the examples by property and bin
    subset: dict[str, list[float]]  # shares of the subset

    def chance(self, of: str) -> list[float]:
        """Return the mean probability to be chosen in each bin; 0 in empty bins."""
        rate = self.chosen / self.examples
        pairs = zip(self.subset[of], self.corpus[of], strict=True)
        return [rate * mine / all_of_it if all_of_it else 0.0 for mine, all_of_it in pairs]

    def total_variation(self, of: str) -> float:
        """Return half the sum of the differences between the shares of subset and corpus."""
        pairs = zip(self.subset[of], self.corpus[of], strict=True)
        return sum(abs(mine - all_of_it) for mine, all_of_it in pairs) / 2


def law(found: Tally, selection: int) -> Law:
    """Return the law of one of the selections."""
    chosen, reach = float(found.chosen_S[selection]), int(found.reach_S[selection])
    return Law(
        examples=found.examples,
        chosen=chosen,
        reach=reach / found.examples,
        effective=reach**2 / float(found.inverse_S[selection]),
        corpus={n: (s.corpus_X / found.examples).tolist() for n, s in found.spreads.items()},
        subset={n: (s.chosen_SX[selection] / chosen).tolist() for n, s in found.spreads.items()},
    )


class Pair(NamedTuple):
    """How far two selections are apart. Shares are of the examples of the larger subset.

    correlation: of the probabilities over all examples; None if those of one are all equal.
    differ: the least share in which the subsets differ on average, however they are drawn. Draws
    with the same seed come close to it in large groups (selection/cut.py). drawn_apart: the share
    in which independent draws differ. by_draw: the share in which two independent draws of one
    selection differ, the mean of the two.
    """

    correlation: float | None
    differ: float
    drawn_apart: float
    by_draw: float

    @property
    def draw_noise(self) -> float:
        """The share of the difference between independent draws that the draws alone explain."""
        return min(1.0, self.by_draw / self.drawn_apart) if self.drawn_apart > ROUNDING else 1.0


def pair(found: Tally, one: int, other: int) -> Pair:
    """Compare two of the selections."""
    products, chosen_S = found.products_SS, found.chosen_S
    size = max(chosen_S[one], chosen_S[other])
    mean_S = chosen_S / found.examples
    covariance = products / found.examples - np.outer(mean_S, mean_S)
    variances = covariance.diagonal()[[one, other]]
    vary = (variances > ROUNDING * mean_S[[one, other]] ** 2).all()
    own = [1 - products[each, each] / chosen_S[each] for each in (one, other)]
    return Pair(
        correlation=float(covariance[one, other] / np.sqrt(variances.prod())) if vary else None,
        differ=_share(1 - found.least_SS[one, other] / size),
        drawn_apart=_share(1 - products[one, other] / size),
        by_draw=_share(sum(own) / 2),
    )


def alike(found: Tally) -> list[tuple[int, int]]:
    """Return the pairs of selections whose subsets differ by no more than draws do.

    Two conditions. At most APART of the examples differ on average (Pair.differ), so the shares of
    no property, binned here or not, differ by more. And in each bin the expected shares differ by
    no more than one standard deviation of the mean over SEEDS draws of both.
    """
    pairs = combinations(range(len(found.chosen_S)), 2)
    return [(one, other) for one, other in pairs if _alike(found, one, other)]


def _alike(found: Tally, one: int, other: int) -> bool:
    if pair(found, one, other).differ > APART:
        return False
    for spread in found.spreads.values():
        mine_X, other_X = (spread.chosen_SX[each] / found.chosen_S[each] for each in (one, other))
        variance_X = _variance(found, one, mine_X) + _variance(found, other, other_X)
        if (np.abs(mine_X - other_X) > np.sqrt(variance_X / SEEDS) + ROUNDING).any():
            return False
    return True


def _variance(found: Tally, selection: int, share_X: np.ndarray) -> np.ndarray:
    """The variance of a subset's shares over draws: hypergeometric for a uniform draw. What quotas
    of groups leave of it counts as none, so that too few pairs are alike rather than too many."""
    if not found.uniform_S[selection]:
        return np.zeros_like(share_X)
    chosen = found.chosen_S[selection]
    rate = found.products_SS[selection, selection] / chosen
    return share_X * (1 - share_X) * (1 - rate) / chosen


def _share(value: float) -> float:
    return min(1.0, max(0.0, float(value)))
