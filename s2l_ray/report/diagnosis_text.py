"""What a diagnosis says, in sentences. Its record is that of pipeline.diagnosis.diagnose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.analysis.gradient_measures import sentences
from s2l_ray.analysis.laws import Law
from s2l_ray.analysis.laws_told import headline
from s2l_ray.formatting import measured, plural, share

Diagnosis = Mapping[str, Any]

CHANGES = {  # what a variant changed -> how its sentence begins
    "k-means seed": "Another k-means seed",
    "n_clusters": "Another number of clusters",
    "checkpoints": "Fewer checkpoints",
    "proxy seed": "Another proxy seed",
    "proxy": "Another proxy",
}

GROUPS = {
    "trajectories": "Clusters of trajectories",
    "features": "Clusters of last-layer features",
    "random": "Random groups of the same sizes",
}


BEYOND_CHANCE = 3  # standard deviations above which an overlap is not chance
SHARE = 10  # standard deviations above which a share of the overlap is known to about a tenth
ALIKE = 0.05  # indices or shares that differ by less are called equal


class Variant(NamedTuple):
    """A row of the table: a variant's agreement with the run's clusters and subset."""

    changed: str
    to: str
    adjusted_rand: float
    jaccard: float
    by_chance: float  # Jaccard index of two uniform subsets
    spread: float  # its standard deviation
    kept: float | None  # overlap beyond chance over that of the draw alone, if that is large
    strata_adjusted_rand: float
    strata_jaccard: float
    correlation: float | None  # of the inclusion probabilities; None if they do not vary
    draw_noise: float  # share of the difference between the subsets that draws alone explain


def variants_of(record: Diagnosis) -> list[Variant]:
    """Return the rows of the table."""
    rows, kept_by_draw = [], 0.0
    for variant in record["stability"]:
        main, strata = (variant["subsets"][name] for name in ("s2l", "loss_strata"))
        beyond = main["jaccard"] - main["by_chance"]
        if variant["changed"] == "draw" and beyond > SHARE * main["spread"]:
            kept_by_draw = beyond
        rows.append(
            Variant(
                changed=variant["changed"],
                to=variant["to"],
                adjusted_rand=main["adjusted_rand"],
                jaccard=main["jaccard"],
                by_chance=main["by_chance"],
                spread=main["spread"],
                kept=beyond / kept_by_draw if kept_by_draw else None,
                strata_adjusted_rand=strata["adjusted_rand"],
                strata_jaccard=strata["jaccard"],
                correlation=main["correlation"],
                draw_noise=main["draw_noise"],
            )
        )
    return rows


def sentences_of(record: Diagnosis) -> list[str]:
    """Return what the variants, the purities and near-duplicates say, a text per change."""
    rows = variants_of(record)
    by_change = {
        changed: [row for row in rows if row.changed == changed]
        for changed in dict.fromkeys(row.changed for row in rows)
    }
    [draw] = by_change.pop("draw")
    found = [_draw(draw)]
    noise = float(np.mean([row.adjusted_rand for row in by_change["k-means seed"]]))
    found += [_change(changed, mine, noise) for changed, mine in by_change.items()]
    if "proxy seed" in by_change:
        found.append(_control(by_change["proxy seed"], noise))
    copies = [" ".join(record["near_duplicates"])] if "near_duplicates" in record else []
    return [*found, _purity(record["purity"]), *copies]


def laws_of(record: Diagnosis) -> dict[str, Law]:
    """Return the laws of the run's subsets by selector."""
    return {name: Law(**found) for name, found in record["laws"]["laws"].items()}


def law_sentences_of(record: Diagnosis) -> list[str]:
    """Say which losses S2L and its control choose."""
    return [f"{selector}: {headline(found)}." for selector, found in laws_of(record).items()]


def gradient_sentences_of(record: Diagnosis) -> list[str]:
    """Return what the gradients say at each step of the target, if they were measured."""
    rows = record["gradients"] or []
    return [
        f"Target at step {step:,}: {sentence}"
        for step in dict.fromkeys(row["step"] for row in rows)
        for sentence in sentences([dict(row) for row in rows if row["step"] == step])
    ]


def _draw(row: Variant) -> str:
    lead = (
        f"Another draw from the same clusters gives a subset with a Jaccard index of "
        f"{row.jaccard:.3f} with the run's; two uniform subsets of these sizes have "
        f"{row.by_chance:.3f} ± {row.spread:.3f}."
    )
    decided = (row.jaccard - row.by_chance) / (1 - row.by_chance) if row.by_chance < 1 else 0.0
    if row.jaccard - row.by_chance <= BEYOND_CHANCE * row.spread:
        return f"{lead} What the clusters determine is not distinguishable from chance."
    if decided >= 0.5:
        return f"{lead} The clusters determine most of the subset."
    if decided >= 0.1:
        return f"{lead} The clusters determine some of the subset, the draw the rest."
    return f"{lead} The clusters determine little of the subset, the draw nearly all."


def _change(changed: str, rows: Sequence[Variant], noise: float) -> str:
    """`noise` is the index that another k-means seed alone gives."""
    rand = float(np.mean([row.adjusted_rand for row in rows]))
    reading = "they depend strongly on it"
    if changed == "n_clusters":  # Even nested clusters do not agree: half as many give 2/3.
        reading = "with another number of clusters it cannot reach 1"
    elif rand >= 0.9:
        reading = "they hardly depend on it"
    elif rand >= 0.7:
        reading = "they depend on it somewhat"
    if changed not in ("n_clusters", "k-means seed") and noise - ALIKE < rand < 0.9:
        reading = f"no lower than the {noise:.2f} of another k-means seed alone"
    text = (
        f"{CHANGES[changed]} ({', '.join(row.to for row in rows)}): adjusted Rand index of the "
        f"clusters {_range([row.adjusted_rand for row in rows], 2)} ({reading}). Jaccard index of "
        f"the subset {_range([row.jaccard for row in rows], 3)}"
    )
    text += _inclusion(rows)
    kept = [row.kept for row in rows if row.kept is not None]
    if not kept:
        return f"{text}."
    mean = float(np.mean(kept))
    reading = "most of what the clusters determine changes"
    if mean >= 0.9:
        reading = "the subset is as stable as its draw allows"
    elif mean >= 0.5:
        reading = "most of what the clusters determine stays"
    overlap = f"this is {mean:.0%} of the overlap of another draw alone"
    return f"{text}. Beyond chance, {overlap}: {reading}."


def _inclusion(rows: Sequence[Variant]) -> str:
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


def _control(proxies: Sequence[Variant], noise: float) -> str:
    """Compare how clusters and loss strata depend on the proxy's seed.

    Another k-means start alone changes the clusters, but not the strata. So both bounds must agree:
    the clusters' index, and its share of the index that another start leaves.
    """
    clusters = float(np.mean([row.adjusted_rand for row in proxies]))
    strata = float(np.mean([row.strata_adjusted_rand for row in proxies]))
    bounds = [clusters, clusters / noise] if noise > 0 else [clusters, 1.0]
    reading = "Trajectories are about as noisy as the mean loss"
    if max(bounds) <= strata - ALIKE:
        reading = "Trajectories are noisier than the mean loss"
    elif min(bounds) >= strata + ALIKE:
        reading = "Trajectories are less noisy than the mean loss"
    elif max(bounds) - min(bounds) > ALIKE:
        reading = "The start of k-means hides which of the two is noisier"
    return (
        f"With another proxy seed, the adjusted Rand index of the clusters is {clusters:.2f} (with "
        f"another k-means seed alone {noise:.2f}), and that of as many strata of the mean loss "
        f"{strata:.2f}. {reading}."
    )


def _purity(purity: Diagnosis | None) -> str:
    if purity is None:
        return "The corpus has one topic, so how well clusters follow topics is unknown."
    mine, features, random = (purity[name]["mean"] for name in GROUPS)
    reading = "follow the topics somewhat"
    if mine - random < ALIKE:
        reading = "do not follow the topics"
    elif mine - random >= 0.5 * (1 - random):
        reading = "follow the topics closely"
    than = "about as pure as"
    if mine - features >= ALIKE:
        than = "purer than"
    elif features - mine >= ALIKE:
        than = "less pure than"
    return (
        f"The most common of {plural(len(purity['topics']), 'topic')} makes up {mine:.0%} of a "
        f"cluster of trajectories, {features:.0%} of a cluster of last-layer features and "
        f"{random:.0%} of a random group of the same size (means over examples). Clusters of "
        f"trajectories {reading}. They are {than} clusters of features."
    )


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
