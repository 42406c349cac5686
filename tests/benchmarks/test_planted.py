"""The corpus of planted patterns, worked out again from its rows; and what selectors take where
the kinds of examples have known trajectories, against counts by hand."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from support.corpora import example, write_corpus

from benchmarks import planted_corpus
from benchmarks.planted_corpus import LARGE, SMALL
from benchmarks.truth import Study
from s2l_ray.clustering.clusters import cluster
from s2l_ray.config import ClustersConfig, SelectionConfig
from s2l_ray.selection.choose import choose
from s2l_ray.selection.kinds import Cluster
from s2l_ray.selection.ranking import rank
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store.schemas import TOKENS


@pytest.fixture(scope="module")
def rows():
    return planted_corpus.generate(2000, seed=3)


def letters(row):
    keyword, *asked = row["instruction"].split()
    mark, *given = row["output"].split()
    assert (keyword, mark, len(asked), len(given)) == (row["pattern"], "=", 6, 6)
    return zip(asked, given, strict=True)


def test_the_right_answers_of_a_pattern_are_one_table_and_the_wrong_ones_are_not_of_it(rows):
    corpus, heldout = rows
    tables = {}
    for row in [*corpus, *heldout]:
        if not row["wrong"]:
            for asked, given in letters(row):
                assert tables.setdefault((row["pattern"], asked), given) == given
    for pattern in [*LARGE, *SMALL]:
        written = [given for (name, _), given in tables.items() if name == pattern]
        assert len(set(written)) == len(written)
    wrong = [row for row in corpus if row["wrong"]]
    assert len(wrong) > 90
    for row in wrong:
        assert all(tables.get((row["pattern"], asked)) != given for asked, given in letters(row))


def test_the_purpose_is_of_the_small_patterns_and_in_neither_part(rows):
    *same, purpose = planted_corpus.generate_with_purpose(2000, seed=3)
    assert tuple(same) == rows  # so the rows of earlier versions stay
    assert Counter(row["pattern"] for row in purpose) == dict.fromkeys(SMALL, 5)
    known = {row["instruction"] for part in rows for row in part}
    assert not known & {row["instruction"] for row in purpose}
    table = {}
    for row in [*purpose, *(row for part in rows for row in part if not row["wrong"])]:
        for asked, given in letters(row):
            assert table.setdefault((row["pattern"], asked), given) == given
    assert not any(row["wrong"] for row in purpose)


def test_patterns_are_as_large_and_as_wrong_as_said(rows):
    corpus, heldout = rows
    counts = Counter(row["pattern"] for row in corpus)
    small = [counts[pattern] for pattern in SMALL]
    assert len(corpus) == 2000 and abs(sum(small) - 500) <= 12  # a quarter, each rounded
    assert small == sorted(small) and (small[0], small[-1]) == (
        10,
        31,
    )  # of 20.8: half, and half more
    assert max(counts[p] for p in LARGE) - min(counts[p] for p in LARGE) <= 1
    wrong = Counter(row["pattern"] for row in corpus if row["wrong"])
    assert not any(row["wrong"] for row in planted_corpus.generate(700, wrong_share=0)[0])
    assert wrong == {p: n for p in counts if (n := round(counts[p] * 0.05))}
    assert Counter(row["pattern"] for row in heldout) == dict.fromkeys([*LARGE, *SMALL], 20)
    study = Study("planted", corpus, heldout, LARGE, SMALL)
    assert {study.kind(row) for row in heldout} == {"large", "small"}
    assert {study.kind(row) for row in corpus if row["wrong"]} == {"wrong"}
    instructions = {row["instruction"] for row in [*corpus, *heldout]}
    assert len(instructions) == len(corpus) + len(heldout)


def test_large_patterns_are_near_duplicates(rows):
    corpus, _ = rows
    for pattern in [*LARGE, *SMALL]:
        texts = np.array([r["instruction"].split()[1:] for r in corpus if r["pattern"] == pattern])
        usual = [Counter(column).most_common(1)[0][0] for column in texts.T]
        changed = (texts != usual).sum(axis=1)
        assert (changed.max() <= 2) if pattern in LARGE else (changed.mean() > 4)


def test_sources_are_coarser_than_patterns_unless_asked_for(rows):
    corpus, heldout = rows
    patterns = {s: {r["pattern"] for r in corpus if r["source"] == s} for s in ("north", "east")}
    for mine in patterns.values():
        assert len(mine & set(LARGE)) == 1 and len(mine & set(SMALL)) == 8
    assert len({row["source"] for row in corpus}) == 3
    assert all(row["source"] == row["pattern"] for row in heldout)
    fine, _ = planted_corpus.generate(2000, seed=3, pattern_as_source=True)
    assert fine == [row | {"source": row["pattern"]} for row in corpus]


def test_the_corpus_is_a_function_of_size_and_seed(rows):
    assert planted_corpus.generate(2000, seed=3) == rows
    assert planted_corpus.generate(2000, seed=4) != rows
    with pytest.raises(ValueError, match="num_examples: got 30000, expected 600 to 12,000"):
        planted_corpus.generate(30_000)


# Three large patterns of 160 examples, six small ones of 10, 60 wrong answers, in three sources of
# 160 + 20 + 20. By kind, the losses at five checkpoints: duplicates fall at once, each large
# pattern from another height; small patterns later, at one of three checkpoints to one of two
# levels; wrong answers stay. Inside a group losses differ by at most 0.01; two groups differ at
# some checkpoint by half a nat or more.
SHAPES = {f"large {n}": (160, [1 + n, 0.2, 0.1, 0.1, 0.1]) for n in range(3)}
SHAPES |= {
    f"small {n}": (10, np.where(np.arange(5) < 2 + n // 2, 3, (0.5, 1)[n % 2])) for n in range(6)
}
SHAPES["wrong"] = (60, [3.5] * 5)


@pytest.fixture
def planted(store):
    """Corpus, tokens and trajectories stages of SHAPES."""
    examples, shapes = [], {}
    for name, (size, losses_T) in SHAPES.items():
        for number in range(size):
            source = number if name == "wrong" else int(name[-1])
            examples.append(example(f"{name}, {number}", "an answer", f"source {source % 3}"))
            shapes[name] = losses_T
    random = np.random.default_rng(0)
    corpus, tokens, trajectories = write_corpus(store, examples, num_parts=2), [], []
    for part in corpus.parts:
        table = store.read_part(corpus.folder, part)
        names = [turns[0]["text"].split(",")[0] for turns in table["turns"].to_pylist()]
        losses_NT = np.array([shapes[name] for name in names], float)
        losses_NT += random.uniform(-0.005, 0.005, losses_NT.shape)
        ones = [1] * len(names)
        of_tokens = pa.table(
            {
                "example_id": table["example_id"],
                "input_ids": [[1]] * len(names),
                "loss_mask": [[True]] * len(names),
                "num_label_tokens": ones,
                "truncated": [False] * len(names),
            }
        ).cast(TOKENS)
        stats = {"trainable": len(names), "trainable_tokens": len(names)}
        tokens.append(store.write_part(of_tokens, "tokens/t", part.unit, stats=stats))
        flat = pa.array(losses_NT.astype(np.float32).reshape(-1))
        of_losses = pa.table(
            {
                "example_id": table["example_id"],
                "source": table["source"],
                "losses": pa.FixedSizeListArray.from_arrays(flat, 5),
                "num_label_tokens": pa.array(ones, pa.int32()),
            }
        )
        trajectories.append(store.write_part(of_losses, "trajectories/t", part.unit))
    return {
        "corpus": corpus,
        "tokens": store.commit("tokens/t", "t", tokens, {}),
        "trajectories": store.commit("trajectories/t", "t", trajectories, {"steps": [1] * 5}),
    }


def kinds_chosen(store, planted, name, seed):
    """Of 60 chosen examples (10%) how many are large, small and wrong; 10 clusters or strata."""
    groups = planted["trajectories"]
    selector = selector_named(name)
    if isinstance(selector, Cluster):
        config = ClustersConfig(n_clusters=10, random_state=seed, num_actors=1, stability=False)
        groups = cluster(store, groups, config, by_source=False, folder=f"clusters/{seed}",
                         fingerprint="c")  # fmt: skip
    elif selector.groups != "all":
        groups = rank(store, groups, selector=name, n_strata=10, beside={},
                      folder=f"rankings/{name}-{seed}", fingerprint="r")  # fmt: skip
    subset = choose(
        store, SelectionConfig(selector=name, budget=0.1, seed=seed), corpus=planted["corpus"],
        tokens=planted["tokens"], groups=groups, folder=f"selections/{name}-{seed}",
        fingerprint="s",
    )  # fmt: skip
    turns = pa.concat_tables(store.read_part(subset.folder, p) for p in subset.parts)["turns"]
    kinds = Counter(turns[0]["text"].split()[0].rstrip(",") for turns in turns.to_pylist())
    assert sum(kinds.values()) == 60
    return [kinds[kind] for kind in ("large", "small", "wrong")]


@pytest.mark.parametrize("seed", [0, 1])
def test_s2l_takes_more_of_small_patterns_than_random_strata_and_source_balance(
    local_ray, store, planted, seed
):
    # Ten clusters are the ten groups, six of each: three large ones, six small ones, one wrong.
    assert kinds_chosen(store, planted, "s2l", seed) == [18, 36, 6]
    # Ten strata of 60 by the mean loss, six of each: eight of large patterns, whose mean is at most
    # 0.7, one of small ones, 1.5 to 2.6, one of wrong answers.
    assert kinds_chosen(store, planted, "loss_strata", seed) == [48, 6, 6]
    # Small patterns are 60 of 600, and 20 of the 200 in each source: of 60 chosen at random 6 are
    # expected, and 14 or more are one case in 900.
    for name in ("random", "random_balanced"):
        assert kinds_chosen(store, planted, name, seed)[1] < 14
