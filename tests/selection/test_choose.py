"""The sharded cut against a sort of everything; the subset's order, nesting, budgets, exports."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from support.corpora import random_examples, write_corpus

from s2l_ray.clustering.clusters import _centers_file
from s2l_ray.config import SelectionConfig
from s2l_ray.errors import TooFew
from s2l_ray.selection import histogram, subset
from s2l_ray.selection.choose import choose
from s2l_ray.selection.cut import cut, keys
from s2l_ray.selection.quotas import even
from s2l_ray.store.schemas import TOKENS
from s2l_ray.store.views import TokensView


def stages(store, count=400, num_clusters=7, cut=None):
    """Corpus, tokens (length = the id's last digit + 1) and clusters stages, written directly.

    cut: ids that it divides have no label token left, and are in no cluster.
    """
    corpus = write_corpus(store, random_examples(count))
    tokens, clusters = [], []
    for part in corpus.parts:
        ids = store.read_part(corpus.folder, part)["example_id"].to_pylist()
        lengths = [i % 10 + 1 for i in ids]
        labels = [0 if cut and i % cut == 0 else n for i, n in zip(ids, lengths, strict=True)]
        table = pa.table(
            {
                "example_id": ids,
                "input_ids": [[1] * n for n in lengths],
                "loss_mask": [[k > 0] * n for k, n in zip(labels, lengths, strict=True)],
                "num_label_tokens": labels,
                "truncated": [False] * len(ids),
            }
        ).cast(TOKENS)
        stats = {"trainable": sum(k > 0 for k in labels), "trainable_tokens": sum(labels)}
        tokens.append(store.write_part(table, "tokens/t", part.unit, stats=stats))
        ids = [i for i, k in zip(ids, labels, strict=True) if k]
        # Unequal clusters: 7 of them over the squares of the ids' remainders.
        cluster = [(i // 10 % num_clusters) ** 2 % num_clusters for i in ids]
        table = pa.table({"example_id": ids, "cluster_id": pa.array(cluster, pa.int32())})
        clusters.append(store.write_part(table, "clusters/t", part.unit, suffix="parquet"))
    info = {"sources": [None] * num_clusters}
    return {
        "corpus": corpus,
        "tokens": store.commit("tokens/t", "t", tokens, {}),
        "groups": store.commit("clusters/t", "t", clusters, info),
    }


def test_clusters_that_learn_nothing_give_nothing(local_ray, store):
    given = stages(store)
    sizes = np.bincount(
        np.concatenate([store.read_part("clusters/t", p)["cluster_id"].to_numpy()
                        for p in given["groups"].parts]), minlength=7,
    )  # fmt: skip
    # The mean loss of cluster 0 falls by 5%, that of 1 by 10%, those of the others by 25%.
    centers = np.array([[2.0, 1.9], [2.0, 1.8], *5 * [[4.0, 3.0]]])
    kept = store.write_beside(_centers_file([(None, centers)]), "clusters/c", "centers.arrow")
    parts = [
        store.write_part(store.read_part("clusters/t", part), "clusters/c", part.unit)
        for part in given["groups"].parts
    ]
    info = given["groups"].info | {"centers": kept.checksum}
    given["groups"] = store.commit("clusters/c", "c", parts, info, [kept])
    found = choose(store, SelectionConfig(selector="cross_fitted_by_cluster", budget=60), **given,
                   folder="selections/x", fingerprint="x")  # fmt: skip
    wanted = even(np.where(np.arange(7) == 0, 0, sizes), 60)
    assert sizes[0] > 0
    assert found.info["by_cluster"] == wanted.tolist()
    assert found.info["candidates"] == sizes[1:].sum()


def subset_of(store, manifest):
    return pa.concat_tables([store.read_part(manifest.folder, part) for part in manifest.parts])


def run(store, given, **settings):
    config = SelectionConfig(**settings)
    mark = "-".join(str(value) for value in settings.values()).replace(" ", "")
    return choose(store, config, **given, folder=f"selections/{mark}", fingerprint=mark)


def test_keys_are_a_function_of_seed_and_id_and_look_uniform():
    ids = np.arange(100_000)
    assert (keys(ids, 1) == keys(ids, 1)).all()
    assert (keys(ids, 1) != keys(ids, 2)).all()
    assert len(np.unique(keys(ids, -3))) == len(ids)
    counts = np.bincount((keys(ids, 7) >> np.uint64(60)).astype(int), minlength=16)
    assert np.abs(counts - 6250).max() < 5 * np.sqrt(6250)
    # Every member of a group is as likely as any other: over seeds, draws of 2 from 5.
    drawn = np.zeros(5)
    for seed in range(2000):
        chosen = cut(np.arange(5), np.zeros(5, np.int32), np.zeros(5), np.array([2]), seed)
        drawn[chosen.example_id] += 1
    assert np.abs(drawn - 800).max() < 5 * np.sqrt(2000 * 0.4 * 0.6)


def test_choose_is_the_sort_of_everything(local_ray, store):
    given = stages(store)
    manifest = run(store, given, selector="s2l", budget=60, seed=3)
    subset = subset_of(store, manifest)
    everything = pa.concat_tables(
        [store.read_part("clusters/t", part) for part in given["groups"].parts]
    )
    ids, group = everything["example_id"].to_numpy(), everything["cluster_id"].to_numpy()
    quotas = even(np.bincount(group, minlength=7), 60)
    wanted = []
    for g in range(7):
        mine = sorted(ids[group == g], key=lambda i: int(keys(np.array([i]), 3)[0]))
        wanted += [(place, g, int(i)) for place, i in enumerate(mine[: quotas[g]])]
    assert subset["example_id"].to_pylist() == [i for _, _, i in sorted(wanted)]
    assert subset["rank"].to_pylist() == list(range(60))
    assert subset["cluster_id"].to_pylist() == [g for _, g, _ in sorted(wanted)]
    assert manifest.info["by_cluster"] == quotas.tolist()
    assert sum(manifest.info["by_source"].values()) == manifest.info["examples"] == 60
    # Texts and origins are those of the corpus.
    corpus = {
        row["example_id"]: row
        for part in given["corpus"].parts
        for row in store.read_part("corpus/test", part).to_pylist()
    }
    for row in subset.to_pylist():
        origin = corpus[row["example_id"]]
        assert {name: row[name] for name in origin} == origin


@pytest.mark.parametrize("selector", ["s2l", "random"])
def test_smaller_budgets_nest_in_larger_ones(local_ray, store, selector):
    given = stages(store, 200)
    if selector == "random":
        for part in given["groups"].parts:
            store.write_bytes(
                store.read_bytes("clusters/t", part.file), "trajectories/t", part.file
            )
        given["groups"] = store.commit("trajectories/t", "t", given["groups"].parts, {})
    chosen = [
        subset_of(store, run(store, given, selector=selector, budget=budget, seed=0))
        for budget in (5, 60, "30%", 200)
    ]
    small, large, share, whole = [table["example_id"].to_pylist() for table in chosen]
    assert large[:5] == small
    assert large == share  # 30% of 200
    assert set(large) < set(whole) and len(set(whole)) == 200


def test_token_budget_is_the_largest_that_fits(local_ray, store):
    given = stages(store)
    manifest = run(store, given, selector="s2l", budget="333 tokens", seed=1)
    count = manifest.info["examples"]
    assert manifest.info["tokens"] <= 333
    subset = subset_of(store, manifest)["example_id"].to_pylist()
    assert sum(i % 10 + 1 for i in subset) == manifest.info["tokens"]
    one_more = run(store, given, selector="s2l", budget=count + 1, seed=1)
    assert one_more.info["tokens"] > 333
    assert subset_of(store, one_more)["example_id"].to_pylist()[:count] == subset


def test_impossible_budgets(local_ray, store):
    given = stages(store, 50)
    with pytest.raises(ValueError, match="51 examples, but only 50 can be chosen"):
        run(store, given, selector="s2l", budget=51)
    with pytest.raises(ValueError, match=r"'1M tokens', but only \d[\d,]* tokens can be"):
        run(store, given, selector="s2l", budget="1M tokens")


def test_a_share_is_of_the_corpus_whatever_can_be_chosen(local_ray, store):
    given = stages(store, 200)
    clusters = given["groups"]
    for part in clusters.parts[1:]:  # the others are in no cluster, as those that do not fall
        store.write_bytes(store.read_bytes(clusters.folder, part.file), "clusters/f", part.file)
    given["groups"] = store.commit("clusters/f", "f", clusters.parts[1:], clusters.info)
    assert 100 < given["groups"].rows < 200
    assert run(store, given, selector="s2l", budget="50%").info["examples"] == 100
    with pytest.raises(TooFew, match=r"200 examples, but only 1\d\d can be chosen"):
        run(store, given, selector="s2l", budget="100%")


def test_tokens_of_examples_that_cannot_be_chosen_pay_for_nothing(local_ray, store):
    given = stages(store, 200, cut=3)
    clusters, tokens = given["groups"], given["tokens"]
    lengths = [
        [i % 10 + 1 for i in store.read_part(clusters.folder, part)["example_id"].to_pylist()]
        for part in clusters.parts
    ]
    count, have = sum(map(len, lengths)), sum(map(sum, lengths))
    assert 100 < count < tokens.rows == 200
    assert TokensView(tokens).trainable_tokens == have
    whole = run(store, given, selector="s2l", budget=f"{have} tokens")
    assert (whole.info["tokens"], whole.info["examples"]) == (have, count)
    message = f"selection.budget: '{have + 1} tokens', but only {have:,} tokens can be chosen"
    with pytest.raises(ValueError, match=message):
        run(store, given, selector="s2l", budget=f"{have + 1} tokens")
    # Fewer candidates than there are examples with label tokens, as prune_then_cluster has.
    given["groups"] = replace(clusters, parts=clusters.parts[:1])
    with pytest.raises(ValueError, match=f"but only {sum(lengths[0]):,} tokens can be chosen"):
        run(store, given, selector="s2l", budget=f"{have} tokens", seed=1)


def test_groups_of_one_s_own_that_do_not_fit_are_refused(local_ray, store):
    given = stages(store, 100)
    clusters = given["groups"]

    def refused(message, **other):
        with pytest.raises(ValueError, match=message):
            run(store, given | other, selector="s2l", budget=100)

    refused("no sources in the manifest's info", groups=replace(clusters, info={}))
    too_many = r"clusters/t/.*: cluster_id from 0 to 4, expected 0 to 2"
    refused(too_many, groups=replace(clusters, info={"sources": [None] * 3}))

    # The parts of the corpus, and an id that the corpus does not have.
    part = clusters.parts[0]
    table = store.read_part(clusters.folder, part)
    ids = table["example_id"].to_pylist()
    stranger = ids[0] + 1
    assert stranger not in ids
    table = table.set_column(0, "example_id", pa.array([stranger, *ids[1:]], pa.int64()))
    other = store.write_part(table, "clusters/other", part.unit, suffix="parquet")
    of_another = store.commit("clusters/other", "o", [other], clusters.info)
    message = rf"corpus/.*{part.unit}.*: has no example {stranger}, .* \(1 such ids\)"
    with pytest.raises(ValueError, match=message):
        run(store, given | {"groups": of_another}, selector="s2l", budget=len(ids))


def test_a_subset_of_several_parts_is_dealt_anew(local_ray, store, monkeypatch):
    monkeypatch.setattr(histogram, "SUBSET_ROWS", 40)
    chosen = run(store, stages(store), selector="s2l", budget=200)
    tables = [store.read_part(chosen.folder, part) for part in chosen.parts]
    assert [table["rank"].to_pylist() for table in tables] == [
        list(range(start, start + 40)) for start in range(0, 200, 40)
    ]
    dealt = [
        subset.deal(store, chosen, folder=f"targets/{name}/dealt", fingerprint="d") for name in "ab"
    ]
    assert dealt[0].parts == dealt[1].parts and len(dealt[0].parts) == 5
    shares = [store.read_part(dealt[0].folder, part) for part in dealt[0].parts]
    for number, share in enumerate(shares):
        assert 10 < share.num_rows < 70
        assert set(share["rank"].to_numpy() // 40) == set(range(5))
        ids = share["example_id"].to_pylist()
        assert ids == sorted(ids) and {i * 5 >> 63 for i in ids} == {number}
    assert pa.concat_tables(shares).sort_by("rank").equals(pa.concat_tables(tables))
