"""Compare selectors on a corpus of planted patterns, where the truth is known.

    python benchmarks/planted.py --seeds 5

planted_corpus.py makes the corpus: three large patterns of near-duplicates, 24 small ones, and 5%
wrong answers; its sources are coarser than the patterns. A selector takes a tenth. Proxies and
targets train from scratch. The corpus is fixed; each seed has its own proxy, draw and target.
Confirm a finding on another corpus with --corpus-seed. The purpose of `toward` and `toward_path` is
120 further examples of the small patterns, so for these two `small` counts the examples like the
purpose, and `loss, small` is the loss on it.

Columns:

- `large`, `small`, `wrong`: chosen examples by kind.
- `small patterns covered`: small patterns of which at least COVERED correct examples were chosen.
- `loss, small` and `loss, large`: loss on held-out examples of these patterns, the mean over
  patterns, in nats per response token; `− random` is the paired difference with its 95% interval.
  Guessing the letters costs 2.08 nats (6 ln 16 / 8).
- `purity`: the share of examples that belong to the most common pattern in their cluster.
- `clusters of mostly …`: how many clusters hold mainly each kind.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import planted_corpus, truth
from benchmarks.planted_corpus import LARGE, SMALL, WRONG_SHARE

DEFAULT = [
    "random", "random_balanced", "loss_strata", "loss_kmeans", "s2l", "s2l_official_clusters",
    "s2l@0.5", "prune_then_cluster", "cross_fitted", "cross_fitted@0.5", "cross_fitted_by_cluster",
    "toward", "toward_path", "neyman",
]  # fmt: skip


def main() -> None:
    parser = truth.parser(__doc__.partition("\n")[0], DEFAULT)
    parser.add_argument("--examples", type=int, default=6000)
    parser.add_argument(
        "--pattern-as-source", action="store_true", help="sources as fine as the patterns"
    )
    parser.add_argument("--wrong-share", type=float, default=WRONG_SHARE)
    arguments = parser.parse_args()
    corpus, heldout, purpose = planted_corpus.generate_with_purpose(
        arguments.examples,
        seed=arguments.corpus_seed,
        pattern_as_source=arguments.pattern_as_source,
        wrong_share=arguments.wrong_share,
    )
    study = truth.Study("planted", corpus, heldout, LARGE, SMALL, purpose)
    truth.measure(study, arguments, max_length=32, vocabulary=512, epochs=(12, 30))


if __name__ == "__main__":
    main()
