"""Pairs of gradients against naive loops, distances against every subset, and the sentences.

N examples, D their width.
"""

from itertools import combinations

import numpy as np
import pytest

from s2l_ray.analysis.gradient_measures import Draw, distances, sentences, similarity
from s2l_ray.analysis.gradients import Mean, Sketches


def sample_of(vectors_ND, cluster_id, weight=None):
    """Vectors that are their own sketches."""
    vectors_ND = np.asarray(vectors_ND, np.float32)
    weight = np.ones(len(vectors_ND)) if weight is None else np.asarray(weight, np.float64)
    norm_N = np.linalg.norm(vectors_ND, axis=1)
    return Sketches(np.asarray(cluster_id), weight, norm_N, vectors_ND)


def planted(seed=0, sizes=(6, 3, 2, 1), apart=2.0):
    """Around a center for each cluster."""
    random = np.random.default_rng(seed)
    cluster_id = random.permutation(np.repeat(np.arange(len(sizes)) * 5, sizes))
    centers = random.normal(size=(len(sizes), 16)) * apart
    return random.normal(size=(len(cluster_id), 16)) + centers[cluster_id // 5], cluster_id


def test_pairs_within_clusters_are_those_of_a_naive_loop():
    vectors_ND, cluster_id = planted()
    share = {0: 500.0, 5: 300.0, 10: 200.0, 15: 9.0}
    counts = {k: int((cluster_id == k).sum()) for k in share}
    sample = sample_of(vectors_ND, cluster_id, [share[k] / counts[k] for k in cluster_id])
    within, apart = similarity(sample)
    cosines, squares = [], []
    for k in (0, 5, 10):  # the last has no pair
        pairs = list(combinations(vectors_ND[cluster_id == k], 2))
        cosines.append(np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs]))
        squares.append(np.mean([((x - y) ** 2).sum() for x, y in pairs]))
    for row in (within, apart):
        assert (row["groups"], row["pairs"]) == (3, 15 + 3 + 1)
    for name, means in (("cosine", cosines), ("squared_distance", squares)):
        mean = 0.5 * means[0] + 0.3 * means[1] + 0.2 * means[2]
        assert within[name] == pytest.approx(mean, rel=1e-5)
        parts = [(p * (m - mean)) ** 2 for p, m in zip((0.5, 0.3, 0.2), means, strict=True)]
        assert within[f"{name}_error"] == pytest.approx(np.sqrt(sum(parts) * 3 / 2), rel=1e-4)
    assert within["cosine"] > apart["cosine"] + 0.3
    assert within["squared_distance"] < 0.5 * apart["squared_distance"]


def test_random_groups_have_the_mean_and_the_spread_of_random_groups():
    vectors_ND, _ = planted(1, sizes=(10, 10, 10))
    cluster_id = np.repeat([0, 1, 2], 10)  # that say nothing of the vectors
    within, apart = similarity(sample_of(vectors_ND, cluster_id))
    units_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    mean = np.mean([x @ y for x, y in combinations(units_ND, 2)])
    assert abs(apart["cosine"] - mean) < 4 * apart["cosine_error"] / 10
    random, drawn = np.random.default_rng(5), []
    for _ in range(300):
        groups = random.permutation(30).reshape(3, 10)
        drawn.append(
            np.mean(
                [units_ND[a] @ units_ND[b] for rows in groups for a, b in combinations(rows, 2)]
            )
        )
    assert apart["cosine_error"] == pytest.approx(np.std(drawn), rel=0.3)
    assert abs(within["cosine"] - mean) < 4 * np.std(drawn)


def test_one_cluster_is_its_own_random_group_and_none_is_told():
    vectors_ND, _ = planted()
    within, apart = similarity(sample_of(vectors_ND, np.zeros(len(vectors_ND), int)))
    assert within["cosine"] == pytest.approx(apart["cosine"])
    assert within["cosine_error"] is None
    assert apart["cosine_error"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="clusters: no cluster has two of the 3 sampled examples"):
        similarity(sample_of(vectors_ND[:3], [0, 1, 2]))


def test_a_gradient_of_zero_has_no_direction():
    vectors_ND, cluster_id = planted()
    vectors_ND[cluster_id == 10] = 0  # a cluster of two
    within, _ = similarity(sample_of(vectors_ND, cluster_id))
    others = cluster_id != 10
    rest, _ = similarity(sample_of(vectors_ND[others], cluster_id[others]))
    assert within["cosine"] == pytest.approx(rest["cosine"] * 9 / 11)
    corpus, zero = Mean(9, np.array([3.0, 4.0])), Mean(3, np.zeros(2))
    [row] = distances(corpus, [(Draw("none", False, 0), zero)], mean_square=125.0)
    assert (row["distance"], row["cosine"]) == (1.0, 0.0)
    assert "one draw" in sentences([*similarity(sample_of(vectors_ND, cluster_id)), row])[1]
    with pytest.raises(ValueError, match=r"the corpus \(3 examples\) is zero"):
        distances(zero, [], mean_square=1.0)


def test_the_distance_expected_of_a_uniform_subset_is_that_over_every_subset():
    vectors_ND = np.random.default_rng(2).normal(size=(9, 4)) + 1
    corpus, square = Mean(9, vectors_ND.mean(0)), float((vectors_ND**2).sum(1).mean())
    for n in (1, 3, 8, 9):
        means = [
            (Draw(str(rows), False, 0), Mean(n, vectors_ND[list(rows)].mean(0)))
            for rows in combinations(range(9), n)
        ]
        rows = distances(corpus, means, mean_square=square)
        root = np.sqrt(np.mean([row["distance"] ** 2 for row in rows]))
        assert rows[0]["uniform"] == pytest.approx(root, abs=1e-7)


def test_distance_and_cosine_by_hand():
    corpus = Mean(100, np.array([3.0, 4.0]))
    means = [
        (Draw("s2l", False, 0), Mean(10, np.array([3.0, 0.0]))),
        (Draw("s2l", False, 1), Mean(10, np.array([0.0, 4.0]))),
        (Draw("s2l", True, 0), Mean(10, np.array([6.0, 8.0]))),
    ]
    plain, by_cluster = distances(corpus, means, mean_square=125.0)
    for row, by_cluster_too, draws, distance, cosine in (
        (plain, False, 2, 0.7, 0.7),  # of 0.8 and 0.6 each
        (by_cluster, True, 1, 1.0, 1.0),
    ):
        assert (row["measure"], row["of"], row["examples"]) == ("mean gradient", "s2l", 10)
        assert (row["weighted"], row["draws"]) == (by_cluster_too, draws)
        assert (row["distance"], row["cosine"]) == pytest.approx((distance, cosine))
        # spread^2 = (125 - 25) 100 / 99; (1/10 - 1/100) of it is 9.0909, its root 3.0151, over 5
        assert row["uniform"] == pytest.approx(0.603023, rel=1e-5)
    assert plain["distance_error"] == pytest.approx(0.1)  # sqrt(2 0.1^2 / 1) / sqrt(2)
    assert by_cluster["distance_error"] is None
    pairs = similarity(sample_of(*planted()))
    text = sentences([*pairs, plain, by_cluster])
    assert len(text) == 2
    assert text[1] == (
        "The mean gradient of s2l (10 examples, mean of 2 draws) differs from the corpus's by "
        "70.0% ± 10.0% of its length (cosine 0.700). A uniform subset of this size is expected to "
        "differ by 60.3%. With weights |C_k|/|S_k| the difference is 100.0%."
    )


@pytest.mark.parametrize(
    ("distance", "reading"),
    [(0.4, "40.0% ± 5.0%, nearer than without them."),
     (0.95, "95.0% ± 5.0%, farther than without them."),
     (0.6, "60.0% ± 5.0%, not distinguishable from that without them.")],  # 2 hypot(.1, .05): .22
)  # fmt: skip
def test_whether_weights_bring_the_gradient_nearer_is_said(distance, reading):
    row = {
        "measure": "mean gradient", "of": "neyman", "weighted": False, "examples": 10, "draws": 5,
        "distance": 0.7, "distance_error": 0.1, "cosine": 0.7, "uniform": 0.6,
    }  # fmt: skip
    weighted = row | {"weighted": True, "distance": distance, "distance_error": 0.05}
    _, text = sentences([*similarity(sample_of(*planted())), row, weighted])
    assert text.endswith(f"With weights |C_k|/|S_k| the difference is {reading}")


@pytest.mark.parametrize(
    ("cosines", "reading"),
    [((0.5, 0.1), "more alike than"), ((0.1, 0.5), "less alike than"),
     ((0.30, 0.35), "not distinguishably more or less alike than")],
)  # fmt: skip
def test_pairs_sentences(cosines, reading):
    rows = [
        {"measure": "pairs", "of": of, "cosine": cosine, "cosine_error": 0.03, **squared}
        for of, cosine, squared in (
            ("clusters", cosines[0], {"squared_distance": 3.0}),
            ("random groups", cosines[1], {"squared_distance": 4.0}),
        )
    ]
    [text] = sentences(rows)
    assert text.startswith(f"Gradients within a cluster are {reading} those in random groups")
    assert f"{cosines[0]:.3f} ± 0.030 against {cosines[1]:.3f} ± 0.030" in text
    assert text.endswith("0.75 times as large.")
