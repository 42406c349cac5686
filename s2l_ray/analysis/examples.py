"""The error that comes from the evaluation examples: of one mean, and of a mean over seeds.

A measure m (a mean over tokens, over sources, or a share of right answers) depends on the N
examples that it is evaluated on. To first order an example adds its influence z_i to it, with
Σ z_i = 0 (linearisation; Cochran 1977, Sampling Techniques, chapter 6). The influence on the
difference of two targets is the difference of their influences. Records keep influences summed
over G groups of examples, drawn by their ids: a mean over seeds, or any other difference, follows
from these sums, without the examples.

Shape suffixes: N examples, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from s2l_ray.analysis.statistics import OverExamples, Seeds

GROUPS = 200  # a standard error from so many is right to 5%


def of_mean_over_tokens(total_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the influence of each example on Σ total / Σ labels."""
    labels = labels_N.sum()
    return (total_N - labels_N * (total_N.sum() / labels)) / labels


def in_groups(influences_N: np.ndarray, order_N: np.ndarray) -> list[float]:
    """Sum influences over groups of equal size (to one), of neighbours in `order_N`.

    Ids are hashes, so neighbours in their order are a random group. With N <= GROUPS each example
    is a group.
    """
    groups = min(GROUPS, len(influences_N))
    ends = np.arange(groups) * len(influences_N) // max(1, groups)
    sums_G = np.add.reduceat(influences_N[order_N], ends) if groups else np.zeros(0)
    return [float(f"{value:.5g}") for value in sums_G]


def variance(influences_G: Sequence[float] | np.ndarray) -> float | None:
    """Return the variance of a measure over draws of the examples; None for fewer than two groups.

    V = G/(G − 1) Σ_g Z_g², where Z_g is the sum of the influences in a group.
    """
    sums_G = np.asarray(influences_G, float)
    groups = len(sums_G)
    return None if groups < 2 else float(groups / (groups - 1) * (sums_G**2).sum())


def shared(by_seeds: Mapping[Seeds, Sequence[float]]) -> OverExamples | None:
    """Return the variance of a mean over seeds that examples cause for all seeds alike.

    by_seeds: the influences [G] on each seed's value. Seeds and examples are both random: the value
    of seed s on example e is d_se = μ + a_s + b_e + c_se. With S seeds and N examples the mean has

        Var = σ_a²/S + σ_b²/N + σ_c²/(SN)

    The variance of the S means over seeds, divided by S, estimates σ_a²/S + σ_c²/(SN)
    (statistics.interval). What is missing is σ_b²/N, and this returns it:

        V_all  = V of the influences averaged over seeds      estimates σ_b²/N + σ_c²/(SN)
        V_one  = mean over seeds of V of their influences     estimates σ_b²/N + σ_c²/N
        σ_b²/N = V_all − (V_one − V_all) / (S − 1), or 0 if that is negative

    Trainings of one selection seed are averaged first; with n_s of n of them, 1/(S − 1) is
    w/(1 − w), where w = Σ (n_s/n)². With one seed, V_all: c cannot be told from b.

    None for fewer than two groups, or if seeds have different ones.
    """
    if len({len(each) for each in by_seeds.values()}) != 1:
        return None
    kind = 0 if len({selection for selection, _ in by_seeds}) > 1 else 1
    by_seed: dict[int, list[np.ndarray]] = {}
    for seeds, influences in by_seeds.items():
        by_seed.setdefault(seeds[kind], []).append(np.asarray(influences, float))
    weights = [len(each) / len(by_seeds) for each in by_seed.values()]
    means = [np.mean(each, axis=0) for each in by_seed.values()]
    of_all = variance(np.average(means, axis=0, weights=weights))
    if of_all is None:
        return None
    w = sum(weight**2 for weight in weights)
    found, freedom = of_all, len(means[0]) - 1
    if len(means) > 1:
        of_one = float(np.average([variance(each) for each in means], weights=weights))
        found = max(0.0, of_all - (of_one - of_all) * w / (1 - w))
    return OverExamples(found, freedom)
