"""The laws that `plan` and `compare` tell, from small run directories."""

import numpy as np
import pyarrow as pa
import pytest
from support.runs import Given, plan_of, settings

from s2l_ray.analysis.laws import pair
from s2l_ray.clustering.kmeans import KMeans
from s2l_ray.formatting import share
from s2l_ray.pipeline import laws
from s2l_ray.pipeline.arms import Arm
from s2l_ray.pipeline.planned_laws import planned_laws
from s2l_ray.selection.cut import cut
from s2l_ray.selection.quotas import even
from s2l_ray.store import Manifest

N, PARTS, BUDGET = 300, 3, 60
KNOWN = ["random", "random_balanced", "loss_strata", "longest", "loss_kmeans", "s2l@0.5"]
UNKNOWN = ["el2n", "ifd", "random_shares", "cross_fitted_by_cluster", "prune_then_cluster"]


class Corpus:
    """Trajectories of a corpus with two sources, one twice as large as the other."""

    def __init__(self, store, plan):
        random = np.random.default_rng(3)
        self.store, self.plan = store, plan
        self.ids = np.sort(random.integers(2**63 - 1, size=N))
        self.losses_NT = np.sort(random.gamma(1.5, size=(N, 3)).astype(np.float32))[:, ::-1]
        self.source = np.where(np.arange(N) % 3 == 0, "small", "large")
        self.lengths = random.integers(1, 200, size=N).astype(np.int32)
        info = {"num_parts": PARTS, "by_source": {"small": 100, "large": 200}}
        self.corpus = store.commit(plan.corpus.folder, plan.corpus.fingerprint, [], info)
        losses = pa.FixedSizeListArray.from_arrays(pa.array(self.losses_NT.reshape(-1)), 3)
        self.trajectories = self.stage(
            plan.seen_by(plan.config.selection).folder, source=pa.array(self.source), losses=losses,
            num_label_tokens=pa.array(self.lengths),
        )  # fmt: skip

    def stage(self, folder, info=None, **columns):
        number = np.array([(int(each) * PARTS) >> 63 for each in self.ids])
        table, parts = pa.table({"example_id": self.ids, **columns}), []
        for part in range(PARTS):
            mine = table.filter(pa.array(number == part))
            parts.append(self.store.write_part(mine, folder, f"part-{part:05d}"))
        return self.store.commit(folder, folder.rpartition("/")[2], parts, info or {})

    @property
    def mean(self):
        return self.losses_NT.astype(np.float64).mean(axis=1)

    def by_loss(self, chance):
        tenth = np.searchsorted(np.quantile(self.mean, np.arange(1, 10) / 10), self.mean, "right")
        return np.bincount(tenth, chance, 10) / chance.sum()


@pytest.fixture
def planned(store):
    config = settings("unused", evaluation__baselines=KNOWN + UNKNOWN, clusters__n_clusters=6)
    plan = plan_of(config)
    assert planned_laws(config, plan, store, BUDGET) is None  # nothing is there yet
    return config, plan, Corpus(store, plan)


def test_plan_tells_laws_before_anything_else_is_made(store, planned):
    config, plan, corpus = planned
    before = sorted(store.names(""))
    found = planned_laws(config, plan, store, BUDGET)
    assert sorted(store.names("")) == before
    assert found.examples == N
    assert found.names == ["s2l", *KNOWN]
    assert found.unknown == {
        "el2n": "it needs more than the losses at the checkpoints",
        "ifd": "it needs more than the losses at the checkpoints",
        "random_shares": "its shares are those of another selection",
        "cross_fitted_by_cluster": "which clusters it leaves out is still to be seen",
        "prune_then_cluster": "its clusters are still to be made",
    }
    mine = {name: found.law(place) for place, name in enumerate(found.names)}
    for law in mine.values():
        assert law.chosen == pytest.approx(BUDGET)
    label = KMeans(6, random_state=config.clusters.random_state).fit_predict(corpus.losses_NT)
    sizes = np.bincount(label)
    s2l = (even(sizes, BUDGET) / sizes)[label]
    assert mine["s2l"].subset["loss"] == pytest.approx(corpus.by_loss(s2l).tolist())
    assert mine["s2l"].total_variation("loss") > 0.1
    tempered = sizes**0.5 / (sizes**0.5).sum() * BUDGET / sizes  # no cluster is smaller than this
    assert tempered.max() < 1
    wanted = corpus.by_loss(tempered[label]).tolist()
    assert mine["s2l@0.5"].subset["loss"] == pytest.approx(wanted, abs=0.02)
    means = corpus.mean[:, None]
    label = KMeans(6, random_state=config.clusters.random_state).fit_predict(means)
    level = (even(np.bincount(label), BUDGET) / np.bincount(label))[label]
    assert mine["loss_kmeans"].subset["loss"] == pytest.approx(corpus.by_loss(level).tolist())
    assert mine["random"].total_variation("source") == pytest.approx(0, abs=1e-9)
    assert mine["random_balanced"].subset["source"] == pytest.approx([0.5, 0.5])
    assert mine["loss_strata"].total_variation("loss") == pytest.approx(0, abs=1e-9)
    longest = np.zeros(N)
    longest[np.argsort(-corpus.lengths, kind="stable")[:BUDGET]] = 1
    assert mine["longest"].subset["loss"] == pytest.approx(corpus.by_loss(longest).tolist())
    assert mine["longest"].reach == BUDGET / N


def test_plan_uses_the_stages_that_are_made(store, planned):
    config, plan, corpus = planned
    label = np.arange(N) % 4  # not those of k-means
    folder = plan.groups(config.selection).folder
    info = {"sources": [None] * 4, "sizes": np.bincount(label).tolist()}
    corpus.stage(folder, info, cluster_id=pa.array(label, pa.int32()))
    random = np.random.default_rng(0)
    score = random.random(N)
    ranking = plan.groups(config.selection.model_copy(update={"selector": "el2n"})).folder
    corpus.stage(ranking, {"sources": [None], "edges": []}, score=pa.array(score))
    found = planned_laws(config, plan, store, 40)
    assert "el2n" in found.names and list(found.unknown) == UNKNOWN[1:]
    chance = np.full(N, 40 / N)  # four clusters of 75
    assert found.law(0).subset["loss"] == pytest.approx(corpus.by_loss(chance).tolist())
    smallest = np.zeros(N)
    smallest[np.argsort(score)[:40]] = 1
    el2n = found.law(found.names.index("el2n"))
    assert el2n.subset["loss"] == pytest.approx(corpus.by_loss(smallest).tolist())


def test_plan_tells_no_law_of_a_selector_that_chooses_nothing_of_the_sample(store, planned):
    config, plan, corpus = planned
    without = pa.array([None] * N, pa.int32())
    corpus.stage(plan.groups(config.selection).folder, {"sources": [None] * 4}, cluster_id=without)
    ranking = plan.groups(config.selection.model_copy(update={"selector": "el2n"})).folder
    score = pa.array([None] * N, pa.float64())
    corpus.stage(ranking, {"sources": [None], "edges": []}, score=score)
    found = planned_laws(config, plan, store, BUDGET)
    for name in ("s2l", "el2n"):
        assert name not in found.names
        assert found.unknown[name] == "it chooses none of these examples"
    assert found.law(found.names.index("random")).chosen == pytest.approx(BUDGET)


def test_plan_does_not_cluster_trajectories_that_are_not_a_baselines_own(store):
    baselines = [*KNOWN, "s2l", "el2n"]
    config = settings("unused", selection__selector="cross_fitted", evaluation__baselines=baselines)
    plan = plan_of(config)
    corpus = Corpus(store, plan)  # out of fold
    own = {"selector": "cross_fitted"}
    folder = plan.groups(config.selection.model_copy(update=own)).folder
    info = {"sources": [None] * 4}
    corpus.stage(folder, info, cluster_id=pa.array(np.arange(N) % 4, pa.int32()))
    found = planned_laws(config, plan, store, BUDGET)
    assert found.names == ["cross_fitted", "random", "random_balanced"]
    others = "it looks at other trajectories"
    assert found.unknown == dict.fromkeys(
        ["loss_strata", "longest", "loss_kmeans", "s2l@0.5", "s2l"], others
    ) | {"el2n": "it needs more than the losses at the checkpoints"}
    # What is made of them is known.
    folder = plan.groups(config.selection.model_copy(update={"selector": "s2l"})).folder
    corpus.stage(folder, info, cluster_id=pa.array(np.arange(N) % 4, pa.int32()))
    assert "s2l" in planned_laws(config, plan, store, BUDGET).names


def subset(store, corpus, choice, group, quotas):
    ids = cut(corpus.ids, group, np.zeros(N), quotas, choice.seed).example_id
    table = pa.table({"example_id": ids})
    folder = f"selections/{choice.selector}"
    part = store.write_part(table, folder, "subset/part-00000")
    info = {
        "selector": choice.selector, "budget": BUDGET, "seed": choice.seed, "examples": BUDGET,
        "by_cluster": quotas.tolist() if choice.selector == "s2l" else None, "by_source": {},
        "candidates": N,
    }  # fmt: skip
    return store.commit(folder, choice.selector, [part], info), set(ids.tolist())


def test_compare_tells_what_the_selectors_choose(local_ray, store, caplog):
    selectors = ["random", "s2l", "loss_strata"]
    config = settings(
        "unused", clusters__n_clusters=6, compare={"selectors": selectors},
        evaluation__baselines=selectors,
    )  # fmt: skip
    plan = plan_of(config)
    corpus = Corpus(store, plan)
    stratum = np.argsort(np.argsort(corpus.mean)) * 6 // N
    label = KMeans(6, random_state=0).fit_predict(corpus.losses_NT)
    groups = {"random": np.zeros(N, int), "s2l": label, "loss_strata": stratum}
    done = {"corpus": corpus.corpus, "trajectories": corpus.trajectories}
    arms, ids = [], {}
    for name in selectors:
        choice = config.selection.model_copy(update={"selector": name, "budget": BUDGET})
        quotas = even(np.bincount(groups[name]), BUDGET)
        made, ids[name] = subset(store, corpus, choice, groups[name].astype(np.int32), quotas)
        stage, info = plan.groups(choice), {"sources": [None] * len(quotas)}
        if name == "s2l":
            column = {"cluster_id": pa.array(label, pa.int32())}
            done[stage.name] = corpus.stage("clusters/x", info, **column)
        elif name == "loss_strata":
            column = {"group": pa.array(stratum, pa.int32())}
            done[stage.name] = corpus.stage("strata/x", info | {"edges": None}, **column)
        arms.append(Arm("0.2", "examples", 0, 0, name, made, BUDGET, 1, 1.0, config.target))
    full = Arm("0.2", "examples", 0, 0, "full, equal compute", Manifest("c", "c", []), N, 1, 1.0,
               config.target)  # fmt: skip
    run = Given.of(config, done, store)
    with caplog.at_level("INFO"):
        laws.tell(run, [*arms, full])
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "what the selectors choose at budget 0.2, over all draws:"
    rows = {line.split()[0]: line.split() for line in told[2:5]}
    assert list(rows) == selectors
    assert rows["random"][1:3] == ["10.0%", "0.00"]
    assert rows["random"][-3:] == ["60", "100%", "0%"] and rows["loss_strata"][-1] == "0%"
    assert float(rows["s2l"][2]) > 0.1 and float(rows["s2l"][-3]) < 60
    [alike] = told[5:]
    # Strata of equal size are a uniform draw: the subsets differ, and no more than by draw.
    differ = 1 - len(ids["random"] & ids["loss_strata"]) / BUDGET
    assert 0.05 < differ < 0.4
    assert alike == (
        f"  The subsets of random and loss_strata differ in {share(differ)} of their examples, two "
        f"draws of one of them in 80.0%. They differ by no more than draws do, by loss, length and "
        f"source: a difference between their targets is unlikely to show with 6 seeds."
    )
    found = laws.laws_of(run, corpus.trajectories, [(run, arm.examples) for arm in arms]).tally
    differ = 1 - len(ids["s2l"] & ids["random"]) / BUDGET
    assert pair(found, 0, 1).differ == pytest.approx(differ, abs=0.15)
