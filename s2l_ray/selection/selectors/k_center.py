"""k-center: no example far from a chosen one."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.greedy import first_of, squared_distances
from s2l_ray.selection.kinds import Cover, Covered


class KCenter(Cover):
    """Minimise max_i min_{j in S} |x_i - x_j| greedily: next comes the row farthest from all chosen
    ones. The radius is at most twice the least (Gonzalez 1985, Clustering to Minimize the Maximum
    Intercluster Distance). This is the sampler of DiverseEvol without its rounds of training.

    The seed draws the first row: Gonzalez takes any, DiverseEvol a random pool, and runs over seeds
    show how much depends on it. Ties by example_id. Smaller budgets nest.

    Cost: 3 N D B floating-point operations, 1.7e12 for N = 100,000, D = 512, B = 11,000, by
    extrapolation a quarter of an hour of one core (13 seconds at N = 30,000, D = 64, B = 3,300).
    Memory: the driver O(N + D), the actors 4 N D bytes together.

    info: radius (of all B).
    """

    rule = "greedy: each next example is the farthest from those chosen"
    source = "Wu et al. 2023 (DiverseEvol), arXiv 2311.08182"
    seeded = True

    def cover(self, each_chunk, ids_N, budget, seed, advance):
        drawn = np.sort(ids_N)[np.random.default_rng(seed).integers(len(ids_N))]
        row = int(np.flatnonzero(ids_N == drawn)[0])
        nearest_N = np.full(len(ids_N), np.inf)
        rows = list[int]()
        while True:
            rows.append(row)
            nearest_N = np.minimum(nearest_N, squared_distances(each_chunk, row))
            nearest_N[row] = -1.0
            advance(1)
            if len(rows) == budget:
                break
            row = first_of(nearest_N, ids_N)
        return Covered(rows, {"radius": float(np.sqrt(max(nearest_N.max(), 0.0)))})
