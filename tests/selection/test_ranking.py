"""Selectors that rank, or draw from sources and strata: against a sort of everything in numpy.

N examples, T checkpoints.
"""

import numpy as np
import pyarrow as pa
import pytest
from support.corpora import random_examples, write_corpus
from support.runs import rows_of

from s2l_ray.config import SelectionConfig
from s2l_ray.corpus.copies import Copies
from s2l_ray.errors import TooFew
from s2l_ray.scoring.trajectories import losses_array
from s2l_ray.selection.choose import choose
from s2l_ray.selection.coverage import cover
from s2l_ray.selection.cut import keys
from s2l_ray.selection.histogram import Order, histogram_of
from s2l_ray.selection.kinds import Cluster, Draw
from s2l_ray.selection.points import falls, features, learned, means
from s2l_ray.selection.ranking import rank
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store.schemas import LOSSES, NEAR_DUPLICATES, TOKENS

COUNT, T, D = 300, 4, 5
DETAILS = ("confidence", "el2n", "grad_norm", "rank", "features")


@pytest.fixture
def given(store):
    """Corpus, tokens, trajectories, losses before training and details; what they hold, by id."""
    random = np.random.default_rng(0)
    corpus = write_corpus(store, random_examples(COUNT))
    parts = {name: [] for name in ("tokens", "trajectories", "before", "without_prompt", "early",
                                   "final")}  # fmt: skip
    known = {name: [] for name in ("example_id", "source", "losses", "labels", "before", "alone")}
    known |= {(when, name): [] for when in ("early", "final") for name in DETAILS}
    for part in corpus.parts:
        table = store.read_part(corpus.folder, part)
        ids, rows = table["example_id"], table.num_rows
        losses_NT = random.lognormal(0, 0.5, (rows, T)).astype(np.float32)
        before = losses_NT[:, 0] + random.normal(1, 0.5, rows).astype(np.float32)
        labels = random.integers(1, 9, rows).astype(np.int32)  # many alike
        tokens = pa.table(
            {
                "example_id": ids,
                "input_ids": [[1] * n for n in labels],
                "loss_mask": [[True] * n for n in labels],
                "num_label_tokens": labels,
                "truncated": [False] * rows,
            }
        ).cast(TOKENS)
        stats = {"trainable": rows, "trainable_tokens": int(labels.sum())}
        parts["tokens"].append(store.write_part(tokens, "tokens/t", part.unit, stats=stats))
        column = pa.FixedSizeListArray.from_arrays(pa.array(losses_NT.reshape(-1)), T)
        trajectories = pa.table(
            {"example_id": ids, "source": table["source"], "losses": column,
             "num_label_tokens": labels}
        )  # fmt: skip
        parts["trajectories"].append(store.write_part(trajectories, "trajectories/t", part.unit))
        of_before = pa.table([ids, pa.array(before), pa.array(labels)], schema=LOSSES)
        unit = f"step-000000/{part.unit}"
        parts["before"].append(store.write_part(of_before, "before/t", unit))
        alone = losses_NT[:, -1] * random.lognormal(0.3, 0.5, rows).astype(np.float32)
        table_alone = pa.table([ids, pa.array(alone), pa.array(labels)], schema=LOSSES)
        unit = f"step-000004/{part.unit}"
        parts["without_prompt"].append(store.write_part(table_alone, "without_prompt/t", unit))
        for name, values in (("example_id", ids.to_numpy()), ("labels", labels),
                             ("source", table["source"].to_pylist()), ("losses", losses_NT),
                             ("before", before), ("alone", alone)):  # fmt: skip
            known[name].extend(values)
        for when, step in (("early", 1), ("final", 4)):
            values = {name: random.random(rows).astype(np.float32) for name in DETAILS[:-1]}
            values["features"] = random.random((rows, D)).astype(np.float32)
            details = of_before
            for name, column in values.items():
                known[when, name].extend(column)
                flat = pa.array(column.reshape(-1))
                details = details.append_column(
                    name,
                    flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, D),
                )
            unit = f"step-{step:06d}/{part.unit}"
            parts[when].append(store.write_part(details, f"{when}/t", unit))
    stages = {
        name: store.commit(f"{name}/t", "t", found, {"steps": [1, 2, 3, 4]})
        for name, found in parts.items()
    }
    return {"corpus": corpus} | stages, {n: np.array(values) for n, values in known.items()}


def select(store, stages, selector, budget, like=None, n_strata=7, seed=3, copies=None):
    chosen = selector_named(selector)
    groups = stages["trajectories"]
    drawn = isinstance(chosen, Draw) and chosen.groups == "all"
    if not drawn and not isinstance(chosen, Cluster):
        needed = [*chosen.details] + ["before"] * chosen.before
        needed += ["without_prompt"] * chosen.without_prompt
        groups = rank(store, groups, selector=selector, n_strata=n_strata,
                      beside={name: stages[name] for name in needed},
                      folder=f"rankings/{selector}", fingerprint="r")  # fmt: skip
    config = SelectionConfig(selector=selector, budget=budget, seed=seed)
    manifest = choose(
        store, config, corpus=stages["corpus"], tokens=stages["tokens"], groups=groups, like=like,
        copies=copies, folder=f"selections/{selector}-{budget}-{seed}-{copies is None}",
        fingerprint="s",
    )  # fmt: skip
    return manifest, pa.concat_tables(store.read_part(manifest.folder, p) for p in manifest.parts)


def first(score, known, budget, seed=3):
    """Ids by score, equal ones by key."""
    ids = known["example_id"]
    return ids[np.lexsort((keys(ids, seed), score))][:budget].tolist()


def difficulty(ratio):
    """The largest that is not above 1 first; above 1, the larger the later."""
    return np.where(ratio > 1, ratio, -ratio)


def percentile(score):
    """Of each, the share that is less, and half of what is equal."""
    less = (score[None] < score[:, None]).mean(axis=1)
    return less + (score[None] == score[:, None]).mean(axis=1) / 2


@pytest.mark.parametrize(
    ("selector", "score"),
    [
        ("longest", lambda k: -k["labels"]),
        ("middle_perplexity", lambda k: abs(percentile(np.exp(k["losses"][:, -1])) - 0.5)),
        ("middle_perplexity_early", lambda k: abs(percentile(np.exp(k["losses"][:, 0])) - 0.5)),
        ("high_learnability", lambda k: k["losses"][:, -1].astype(float) - k["before"]),
        (
            "high_learnability_relative",
            lambda k: k["losses"][:, -1].astype(float) / k["before"] - 1,
        ),
        ("loss_drop", lambda k: k["losses"][:, -1].astype(float) / k["losses"][:, 0] - 1),
        ("rank_surprisal", lambda k: k["early", "rank"].astype(float) / k["losses"][:, 0]),
        ("ifd", lambda k: difficulty(k["losses"][:, -1].astype(float) / k["alone"])),
        ("least_confidence", lambda k: k["final", "confidence"]),
        ("least_confidence_early", lambda k: k["early", "confidence"]),
        (
            "confidence_curriculum",
            lambda k: -k["early", "confidence"].astype(float) - k["final", "confidence"],
        ),
        ("el2n", lambda k: -k["early", "el2n"]),
        ("el2n_middle", lambda k: abs(percentile(k["early", "el2n"]) - 0.5)),
        ("el2n_bottom", lambda k: k["early", "el2n"]),
        ("grand", lambda k: -k["early", "grad_norm"]),
    ],
)
def test_the_smallest_scores_come_first(local_ray, store, given, selector, score):
    stages, known = given
    manifest, subset = select(store, stages, selector, 90)
    assert subset["example_id"].to_pylist() == first(score(known).round(12), known, 90)
    assert subset["reason"].to_pylist() == [f"place {n}" for n in range(1, 91)]
    assert subset["cluster_id"].null_count == 90 and manifest.info["by_cluster"] is None
    _, small = select(store, stages, selector, 20)
    assert small["example_id"].to_pylist() == subset["example_id"].to_pylist()[:20]


def test_a_selector_of_ones_own_runs_on_workers_that_lack_its_module(
    local_ray, store, given, tmp_path, monkeypatch
):
    stages, known = given
    (tmp_path / "own_selectors.py").write_text(
        "from s2l_ray.selection.kinds import Rank\n"
        "class Shortest(Rank):\n"
        "    rule = 'fewest response tokens'\n"
        "    def score(self, known):\n"
        "        return known.num_label_tokens_N.astype(float)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # of the driver; the workers run already
    _, subset = select(store, stages, "own_selectors:Shortest", 60)
    assert subset["example_id"].to_pylist() == first(known["labels"].astype(float), known, 60)


def test_the_middle_is_as_many_above_as_below(local_ray, store, given):
    stages, known = given
    last = dict(zip(known["example_id"].tolist(), known["losses"][:, -1], strict=True))
    _, subset = select(store, stages, "middle_perplexity", 100)
    above = [last[i] > np.median(known["losses"][:, -1]) for i in subset["example_id"].to_pylist()]
    assert sum(above) == 50


def test_bins_hold_few_examples(local_ray, store, given):
    """Bins between quantiles: also scores that are all of one size."""
    stages, _ = given
    ranked = rank(store, stages["trajectories"], selector="middle_perplexity", n_strata=1,
                  beside={}, folder="rankings/m", fingerprint="m")  # fmt: skip
    counts = np.diff(histogram_of(store, ranked, 1, Order.of(ranked, 0)).counts_GX[0])
    assert counts.sum() == ranked.rows and counts.max() <= 10


def test_strata_are_quantiles_of_the_mean_loss_with_equal_quotas(local_ray, store, given):
    stages, known = given
    _, subset = select(store, stages, "loss_strata", 70)
    mean = known["losses"].mean(axis=1, dtype=float)
    stratum = (percentile(mean) * 7).astype(int)
    place = {i: row for row, i in enumerate(known["example_id"].tolist())}
    chosen = stratum[[place[i] for i in subset["example_id"].to_pylist()]]
    assert np.bincount(chosen).tolist() == [10] * 7
    wanted = {f"stratum {s}, draw {n}" for s in range(7) for n in range(1, 11)}
    assert set(subset["reason"].to_pylist()) == wanted
    _, other = select(store, stages, "loss_strata", 70, seed=4)
    assert set(other["example_id"].to_pylist()) != set(subset["example_id"].to_pylist())


def test_random_by_source(local_ray, store, given):
    stages, known = given
    sizes = {s: int((known["source"] == s).sum()) for s in np.unique(known["source"])}
    balanced, subset = select(store, stages, "random_balanced", 30)
    assert set(balanced.info["by_source"].values()) == {30 // len(sizes)}
    for source in sizes:
        mine = known["example_id"][known["source"] == source]
        wanted = mine[np.argsort(keys(mine, 3))][: 30 // len(sizes)]
        rows = subset.filter(pa.compute.equal(subset["source"], source))
        assert set(rows["example_id"].to_pylist()) == set(wanted.tolist())
    longest, _ = select(store, stages, "longest", 60)
    shares, subset = select(store, stages, "random_shares", 60, like=longest)
    assert shares.info["by_source"] == longest.info["by_source"]
    assert all(reason.startswith("source ") for reason in subset["reason"].to_pylist())
    tokens, _ = select(store, stages, "random_tokens", 60, like=longest)
    assert tokens.info["examples"] > 60  # shorter ones
    assert longest.info["tokens"] - 8 < tokens.info["tokens"] <= longest.info["tokens"]


def test_falls_are_of_the_examples_whose_loss_fell(local_ray, store, given):
    stages, known = given
    found = falls(store, stages["trajectories"], folder="falls/f", fingerprint="f")
    table = pa.concat_tables(store.read_part("falls/f", part) for part in found.parts)
    fell = known["losses"][:, -1] < known["losses"][:, 0]
    assert table["example_id"].to_pylist() == known["example_id"][fell].tolist()
    assert (losses_array(table) == -np.diff(known["losses"][fell], axis=1)).all()
    assert found.info["steps"] == [2, 3, 4]


def test_the_learned_are_the_examples_whose_loss_fell(local_ray, store, given):
    stages, known = given
    found = learned(store, stages["trajectories"], folder="learned/l", fingerprint="l")
    table = pa.concat_tables(store.read_part("learned/l", part) for part in found.parts)
    fell = known["losses"][:, -1] < known["losses"][:, 0]
    assert 0 < fell.sum() < COUNT
    assert table["example_id"].to_pylist() == known["example_id"][fell].tolist()
    assert (losses_array(table) == known["losses"][fell]).all()
    assert found.info["steps"] == [1, 2, 3, 4]


def test_means_are_one_point_per_example(local_ray, store, given):
    stages, known = given
    found = means(store, stages["trajectories"], folder="means/m", fingerprint="m")
    table = pa.concat_tables(store.read_part("means/m", part) for part in found.parts)
    assert table["example_id"].to_pylist() == known["example_id"].tolist()
    assert losses_array(table).shape == (COUNT, 1)
    np.testing.assert_allclose(losses_array(table)[:, 0], known["losses"].mean(axis=1), rtol=1e-6)


def test_features_are_those_at_the_last_checkpoint_in_the_trajectories_schema(
    local_ray, store, given
):
    stages, known = given
    found = features(store, stages["trajectories"], details=stages["final"], folder="features/f",
                     fingerprint="f")  # fmt: skip
    table = pa.concat_tables(store.read_part("features/f", part) for part in found.parts)
    assert table["example_id"].to_pylist() == known["example_id"].tolist()
    assert table["source"].to_pylist() == known["source"].tolist()
    assert table["num_label_tokens"].to_pylist() == known["labels"].tolist()
    assert (losses_array(table) == known["final", "features"]).all()


def test_a_score_that_is_not_finite_is_told(local_ray, store, given):
    stages, _ = given
    [part, *others] = stages["before"].parts
    table = store.read_part("before/t", part)
    losses = table["loss"].to_numpy().copy()
    losses[2] = np.nan
    table = table.set_column(1, "loss", pa.array(losses))
    bad = store.write_part(table, "before/bad", part.unit)
    for other in others:
        store.write_part(store.read_part("before/t", other), "before/bad", other.unit)
    stages["before"] = store.commit("before/bad", "b", [bad, *others], {})
    told = rf"example_id {table['example_id'][2]} is nan, expected a finite"
    with pytest.raises(ValueError, match=told):
        select(store, stages, "high_learnability", 5)


def test_losses_of_other_examples_are_refused(local_ray, store, given):
    stages, _ = given
    parts = [
        store.write_part(store.read_part("before/t", part).slice(1), "before/short", part.unit)
        for part in stages["before"].parts
    ]
    stages["before"] = store.commit("before/short", "b", parts, {})
    with pytest.raises(ValueError, match="its examples differ from those"):
        select(store, stages, "high_learnability", 5)


@pytest.mark.parametrize(
    "selector", ["random", "random_balanced", "loss_strata", "longest", "el2n_middle"]
)
def test_examples_that_are_left_out_are_passed_over(local_ray, store, given, selector):
    """A cap of 2 on groups of three: the order of the others is that without it."""
    stages, known = given
    ids = np.sort(known["example_id"])
    rows = {"example_id": ids, "group": np.repeat(ids[::3], 3), "place": np.arange(COUNT) % 3}
    table = pa.table(rows).cast(NEAR_DUPLICATES)
    part = store.write_part(table, "near/n", "part-00000")
    copies = Copies.of(store.commit("near/n", "n", [part], {"num_parts": 1}), 2)
    _, whole = select(store, stages, selector, COUNT)
    for budget in (7, 60, 200):
        manifest, subset = select(store, stages, selector, budget, copies=copies)
        chosen = subset["example_id"].to_numpy()
        assert len(chosen) == budget and manifest.info["candidates"] == 200
        assert np.bincount(np.searchsorted(ids, chosen) // 3).max() <= 2
        by_source = {row["example_id"]: row["source"] for row in whole.to_pylist()}
        for source in "abc" if selector == "random_balanced" else [None]:
            # Within what quotas are of, the order is that of the whole without those left out.
            mine = [i for i in chosen.tolist() if source in (None, by_source[i])]
            order = [i for i in whole["example_id"].to_pylist() if i not in ids[2::3]]
            order = [i for i in order if source in (None, by_source[i])]
            if selector != "loss_strata":
                assert sorted(mine) == sorted(order[: len(mine)])
    with pytest.raises(TooFew, match="only 200 can be chosen"):
        select(store, stages, selector, 201, copies=copies)


@pytest.mark.parametrize(("budget", "tokens"), [(20, 10**9), ("60 tokens", 60)])
def test_a_cover_of_features_at_a_checkpoint_is_cut(local_ray, store, given, budget, tokens):
    """Its parts have the checkpoint in their names, those of the corpus have not."""
    stages, known = given
    ranked = cover(store, stages["final"], rule="k_center", budget=20, seed=3,
                   folder="rankings/k_center", fingerprint="r")  # fmt: skip
    assert ranked.parts[0].unit.startswith("step-000004/")
    order = sorted((row["score"], row["example_id"]) for row in rows_of(store, ranked))[:20]
    labels = dict(zip(known["example_id"].tolist(), known["labels"].tolist(), strict=True))
    within = np.cumsum([labels[i] for _, i in order]) <= tokens
    config = SelectionConfig(selector="k_center", budget=budget, seed=3)
    manifest = choose(
        store, config, corpus=stages["corpus"], tokens=stages["tokens"], groups=ranked,
        folder=f"selections/{tokens}", fingerprint="s",
    )  # fmt: skip
    chosen = [row["example_id"] for row in rows_of(store, manifest)]
    assert chosen == [i for (_, i), here in zip(order, within, strict=True) if here]
