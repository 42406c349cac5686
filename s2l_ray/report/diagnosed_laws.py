"""What a diagnosis says about inclusion probabilities (analysis/laws.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s2l_ray.analysis.laws import Law
from s2l_ray.analysis.laws_told import headline
from s2l_ray.formatting import measured, share

if TYPE_CHECKING:
    from s2l_ray.report.diagnostics_page import Variant


def laws_of(record: Mapping[str, Any]) -> dict[str, Law]:
    """Return the laws of the run's subsets by selector."""
    return {name: Law(**found) for name, found in record["laws"]["laws"].items()}


def law_sentences_of(record: Mapping[str, Any]) -> list[str]:
    """Say which losses S2L and its control choose."""
    return [f"{selector}: {headline(found)}." for selector, found in laws_of(record).items()]


def inclusion_told(rows: Sequence[Variant]) -> str:
    """Say how the probabilities to be chosen change, and what the draw alone explains; for the end
    of a sentence without its full stop."""
    known = [row.correlation for row in rows if row.correlation is not None]
    if not known:
        return ""
    explained = share(min(row.draw_noise for row in rows))
    more = " or more" if len(rows) > 1 else ""
    return (
        f". Inclusion probabilities correlate at {measured(min(known))}{more} with the run’s, and "
        f"the draw alone explains {explained}{more} of the difference between the subsets"
    )
