"""MinHash: signatures of texts, whose equal numbers estimate the Jaccard similarity of their
shingles, and band keys, which similar texts share. N texts, H hashes, B bands.

The hashes are datasketch's: SHA-1 and fixed permutations, so they are the same in every process and
on every machine. With 128 of them the standard error of a similarity of 0.8 is 0.035.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from s2l_ray.store.schemas import HASHES

SCHEME = "affine32"  # of datasketch; its signatures identify the stage
RECALL = 0.99  # of pairs whose similarity is the one asked for
NO_PACKAGE = (
    "selection.near_duplicates: the package datasketch is not installed; run "
    'pip install "s2l-ray[near-duplicates]" here and on every node, or leave out '
    "selection.near_duplicates"
)

# Chinese and Japanese are written without spaces: there a character is a word, as a sign is.
_WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff]+|\S")


def shingles(text: str, words: int) -> set[str]:
    """Return all runs of so many words, in lower case; the whole of a text that has fewer."""
    found = _WORD.findall(text.lower())
    return {" ".join(found[i : i + words]) for i in range(max(1, len(found) - words + 1))}


def signatures(texts: Iterable[str], words: int) -> np.ndarray:
    """Return the MinHash of each text's shingles: uint32 [N, H]. ValueError without datasketch."""
    try:
        from datasketch import MinHash
    except ImportError:
        raise ValueError(NO_PACKAGE) from None
    encoded = ([each.encode() for each in shingles(text, words)] for text in texts)
    found = MinHash.generator(encoded, num_perm=HASHES, seed=1, scheme=SCHEME)
    rows = [each.hashvalues for each in found]
    return np.array(rows, np.uint32).reshape(-1, HASHES)


def rows_per_band(similarity: float) -> int:
    """Return how many hashes make a key: as many as still find RECALL of the pairs of this
    similarity, so that few others are compared."""
    counts = range(1, HASHES + 1)
    return max(n for n in counts if n == 1 or _found(similarity, n) >= RECALL)


def _found(similarity: float, rows: int) -> float:
    return 1 - (1 - similarity**rows) ** (HASHES // rows)


def band_keys(signatures_NH: np.ndarray, rows: int) -> np.ndarray:
    """Return a 64-bit key for each band of so many hashes: uint64 [N, B]. Those of different bands
    differ."""
    bands = HASHES // rows
    hashes_NBR = signatures_NH[:, : bands * rows].reshape(-1, bands, rows)
    keys_NB = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), hashes_NBR.shape[:2])
    for row in range(rows):
        keys_NB = _mixed(keys_NB ^ hashes_NBR[:, :, row])
    return keys_NB


def _mixed(z: np.ndarray) -> np.ndarray:
    """Spread the bits of 64-bit numbers (splitmix64)."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return z ^ (z >> np.uint64(31))
