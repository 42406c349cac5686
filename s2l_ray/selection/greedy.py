"""What greedy covers share: unit vectors on a grid, ties, and distances over chunks.

Shape suffixes: N examples, D features, U rows of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.selection.kinds import EachChunk

FARTHEST = 6.0  # in squares of `grid`: more than the largest distance, 4


def grid(num_rows: int) -> int:
    """Return the length, a power of 2, to scale unit vectors to before rounding them to integers.

    num_rows times FARTHEST squares of it stay below 2^53, and it is at most 2^24. For 100,000 rows
    it is 2^16, which moves a similarity by about 3e-6, less between near rows.
    """
    return 2 ** min(24, (50 - (num_rows - 1).bit_length()) // 2)


def on_grid(features_ND: np.ndarray, length: int) -> np.ndarray:
    """Scale each row (none is zero) to that length and round it to integers, float32 [N, D]."""
    wide_ND = features_ND.astype(np.float64)
    norm_N = np.sqrt(np.einsum("nd,nd->n", wide_ND, wide_ND))
    return np.rint(wide_ND * (length / norm_N)[:, None]).astype(np.float32)


def first_of(value_N: np.ndarray, ids_N: np.ndarray) -> int:
    """Return the row with the largest value; of several, the one with the smallest id."""
    rows = np.flatnonzero(value_N == value_N.max())
    return int(rows[ids_N[rows].argmin()])


def features_of(each_chunk: EachChunk, rows: Any) -> np.ndarray:
    """Return the features [U, D] of rows in rising order."""
    return np.concatenate(each_chunk("take", np.asarray(rows)))


def squared_distances(each_chunk: EachChunk, row: int) -> np.ndarray:
    """Return the squared distance [N] of every row to one row."""
    center_D = features_of(each_chunk, [row])[0].astype(np.float64)
    return np.concatenate(each_chunk("squared_distances", center_D))
