"""Selectors by features (embeddings): the subset that covers the corpus, in greedy order.

The rows lie in chunks elsewhere. `each_chunk(method, *args)` returns what the method of that name
of coverage.FeatureWork finds for each chunk, in row order; what is kept here is O(N), and features
of a few rows.

Shape suffixes: N examples, D features, U rows of a block, B budget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_BLOCK_ROWS = 1024  # whose features are sent to all chunks at a time


_FARTHEST = 6.0  # in squares of `grid`: more than any distance, of which 4 is the largest


EachChunk = Callable[..., list[Any]]


class Cover(NamedTuple):
    """The rows chosen, first to last, and what to know about them (JSON)."""

    rows: list[int]
    info: dict[str, Any]


def facility_location(
    each_chunk: EachChunk,
    ids_N: np.ndarray,
    budget: int,
    seed: int,
    advance: Callable[[float], None],
) -> Cover:
    """Maximise F(S) = sum_i max_{j in S} s(i, j), s = (1 + cos) / 2, greedily: at least 1 - 1/e of
    the optimum (Nemhauser, Wolsey, Fisher 1978). A baseline of the S2L paper, after Bhatt et al.
    2024, arXiv 2401.06692.

    s is the cosine moved to [0, 1], so that F never falls; that changes no choice. (submodlib
    counts a negative cosine as 0: where there are some, its choices may differ.) It is
    1 - d^2 / 4, d the
    Euclidean distance of the unit vectors, in the order of apricot's Euclidean kernel of these.
    (apricot's "cosine" is squared: opposite is as good as equal.)

    The greedy choice is exact, that of lazy and of naive greedy, equal gains by example_id; no
    seed. So a smaller budget is the beginning of a larger one, which stochastic greedy
    (Mirzasoleiman et al. 2015, arXiv 1409.7938) with its samples by budget does not give. Gains are
    not asked for anew, as in lazy greedy (Minoux 1978), but kept up to date: a choice changes them
    only through the rows U that it is nearer to than all before it. All |U| together grow like
    N log B: 4.9, 5.2 and 5.7 N for a mixture of 200 kinds at N = 3,000, 10,000 and 30,000, D = 64,
    B = 0.11 N; 5.9 and 7.0 N for noise at the first two, where lazy greedy asks for 6.7 and 7.0 N
    gains of the mixture, 15 and 21 N of noise.

    Cost: N D (3 B + 2 sum |U|) floating-point operations; those mixtures took 0.4, 4 and 45 seconds
    of one core. N = 100,000, D = 512, B = 11,000 with 8 N are 8e13: by extrapolation an hour of one
    core, spread over the actors. Memory: the driver O(N + _BLOCK_ROWS D), the actors 4 N D bytes
    among them, and each a block of distances. (All [N, N] of them would take 80 GB.)

    `each_chunk` has the unit vectors on a grid (see `grid`): whole numbers, whose products and sums
    float64 holds exactly, in any order. So equal gains are equal (two rows nearest to each other
    often gain the same), and the choice depends on no chunk, actor or BLAS.

    info: objective (F), gains (how many were computed: distances, in gains of N distances).
    """
    num_rows, square = len(ids_N), float(grid(len(ids_N)) ** 2)
    nearest_N = np.full(num_rows, _FARTHEST * square)
    sums = each_chunk("sums")
    sum_D, squares = sum(sum_D for sum_D, _ in sums), sum(squares for _, squares in sums)
    gain_N = num_rows * _FARTHEST * square - squares
    gain_N = gain_N - np.concatenate(each_chunk("distances_to_all", sum_D, num_rows))
    rows, asked = list[int](), 0
    while True:
        row = _first(gain_N, ids_N)
        rows.append(row)
        squared_N = _squared_distances(each_chunk, row)
        nearer = np.flatnonzero(squared_N < nearest_N)
        asked += num_rows
        advance(1)
        if len(rows) == budget:
            break
        for first in range(0, len(nearer), _BLOCK_ROWS):
            block = nearer[first : first + _BLOCK_ROWS]
            features_UD = _features(each_chunk, block)
            changes = each_chunk("changes", features_UD, nearest_N[block], squared_N[block])
            gain_N += np.concatenate(changes)
        asked += len(nearer) * num_rows
        gain_N[row] = -1.0
        nearest_N[nearer] = squared_N[nearer]
    total = float(np.minimum(nearest_N, squared_N).sum())
    return Cover(rows, {"objective": num_rows - total / (4 * square), "gains": asked // num_rows})


def k_center(
    each_chunk: EachChunk,
    ids_N: np.ndarray,
    budget: int,
    seed: int,
    advance: Callable[[float], None],
) -> Cover:
    """Minimise max_i min_{j in S} |x_i - x_j| greedily: next comes the row farthest from all chosen
    ones; at most twice the least radius (Gonzalez 1985, Clustering to Minimize the Maximum
    Intercluster Distance). The sampler of DiverseEvol (Wu et al. 2023, arXiv 2311.08182), whose
    rounds of training between the choices are left out.

    The first row is drawn by the seed: Gonzalez takes any, DiverseEvol a random pool, and so runs
    over seeds show how much hangs on it. Equal distances by example_id. Smaller budgets nest.

    Cost: 3 N D B floating-point operations, 1.7e12 for N = 100,000, D = 512, B = 11,000, by
    extrapolation a quarter of an hour of one core (13 seconds at N = 30,000, D = 64, B = 3,300).
    Memory: the driver O(N + D), actors 4 N D bytes among them.

    info: radius (of all B).
    """
    drawn = np.sort(ids_N)[np.random.default_rng(seed).integers(len(ids_N))]
    row = int(np.flatnonzero(ids_N == drawn)[0])
    nearest_N = np.full(len(ids_N), np.inf)
    rows = list[int]()
    while True:
        rows.append(row)
        nearest_N = np.minimum(nearest_N, _squared_distances(each_chunk, row))
        nearest_N[row] = -1.0
        advance(1)
        if len(rows) == budget:
            break
        row = _first(nearest_N, ids_N)
    return Cover(rows, {"radius": float(np.sqrt(max(nearest_N.max(), 0.0)))})


def grid(num_rows: int) -> int:
    """The length, a power of 2, that unit vectors are given before they are rounded to whole
    numbers: such that num_rows times _FARTHEST squares of it stay below 2^53, itself at most 2^24.
    2^16 for 100,000 rows, by which a similarity is off by about 3e-6, less between near rows."""
    return 2 ** min(24, (50 - (num_rows - 1).bit_length()) // 2)


def on_grid(features_ND: np.ndarray, length: int) -> np.ndarray:
    """Rows, none of them zero, with their direction and that length, rounded to whole numbers
    (float32)."""
    wide_ND = features_ND.astype(np.float64)
    norm_N = np.sqrt(np.einsum("nd,nd->n", wide_ND, wide_ND))
    return np.rint(wide_ND * (length / norm_N)[:, None]).astype(np.float32)


def _first(value_N: np.ndarray, ids_N: np.ndarray) -> int:
    """The row of the largest value; of several, that with the smallest id."""
    rows = np.flatnonzero(value_N == value_N.max())
    return int(rows[ids_N[rows].argmin()])


def _features(each_chunk: EachChunk, rows: Any) -> np.ndarray:
    """[U, D] of these rows, which rise."""
    return np.concatenate(each_chunk("take", np.asarray(rows)))


def _squared_distances(each_chunk: EachChunk, row: int) -> np.ndarray:
    """[N] to a row"""
    center_D = _features(each_chunk, [row])[0].astype(np.float64)
    return np.concatenate(each_chunk("squared_distances", center_D))


COVERS = {"facility_location": facility_location, "k_center": k_center}
