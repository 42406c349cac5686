"""Cross-fitting: every example's losses are those of the proxy that was not trained on it; and the
losses of responses alone."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from support.runs import corpus, ids_of, plan_of, rows_of, settings, stages_run
from transformers import AutoModelForCausalLM

import s2l_ray
from s2l_ray.corpus.derived import fold_of, without_prompts
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.stage import walk
from s2l_ray.report import gather
from s2l_ray.scoring.trajectories import assemble
from s2l_ray.store import Store
from s2l_ray.store.schemas import LOSSES
from s2l_ray.store.views import TokensView
from s2l_ray.training.checkpoints import checkpoints_of

MADE = [
    "fold-0/tokens", "fold-1/tokens", "fold-1/proxy", "fold-0/losses", "fold-0/proxy",
    "fold-1/losses", "trajectories_out_of_fold",
]  # fmt: skip


def loss_of(model, row):
    """Of one example, by the model's own loss."""
    ids = torch.tensor([row["input_ids"]])
    labels = torch.where(torch.tensor([row["loss_mask"]]), ids, -100)
    with torch.no_grad():
        return model(input_ids=ids, labels=labels).loss.item()


@pytest.mark.slow
def test_each_example_is_scored_by_the_proxy_of_the_other_half(finished, copy, start):
    config = settings(copy, selection__selector="cross_fitted", selection__export=[])
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    made, found = stages_run(copy)
    assert found == ["corpus", "tokens"]  # the proxy of the whole corpus is not needed
    assert sorted(made) == sorted(
        [*MADE, "learned", "clusters_of_learned", "selections/cross_fitted-seed0"]
    )

    store = run.store
    tokens = {row["example_id"]: row for row in rows_of(store, run.done["tokens"])}
    folds = [ids_of(store, run.done[f"fold-{n}/tokens"]) for n in (0, 1)]
    assert sorted(folds[0] + folds[1]) == sorted(tokens)
    assert all(i % 2 == n for n in (0, 1) for i in folds[n]) and min(map(len, folds)) > 80

    curves = {row["example_id"]: row["losses"]
              for row in rows_of(store, run.done["trajectories_out_of_fold"])}  # fmt: skip
    assert curves.keys() == {i for i, row in tokens.items() if any(row["loss_mask"])}
    for number, ids in enumerate(folds):
        unseen = run.done[f"fold-{1 - number}/proxy"]
        for place, folder in enumerate(checkpoints_of(unseen).values()):
            model = AutoModelForCausalLM.from_pretrained(Path(copy) / folder)
            for i in ids[:10]:
                assert curves[i][place] == pytest.approx(loss_of(model, tokens[i]), rel=2e-5)

    chosen = set(selection.ids().tolist())
    fell = {i for i, losses in curves.items() if losses[-1] < losses[0]}
    assert len(chosen) == 40 and chosen <= fell

    page = Path(gather.write(run, selection)).read_text()
    assert "trained on the other half" in page
    run.lease.release()
    again = s2l_ray.select(corpus(), config)
    assert again.manifest == selection.manifest and not stages_run(copy)[0]

    # The other rule needs no further training.
    by_cluster = settings(copy, selection__selector="cross_fitted_by_cluster", selection__export=[])
    found = s2l_ray.select(corpus(), by_cluster)
    assert stages_run(copy)[0] == [
        "clusters_out_of_fold", "selections/cross_fitted_by_cluster-seed0"
    ]  # fmt: skip
    assert found.info["examples"] == 40


def test_a_fold_has_the_counts_of_its_own_examples(finished):
    store, run_json = Store(finished[0]), Store(finished[0]).read_json("run.json")
    tokens = store.manifest(run_json["current"]["tokens"])
    folds = [fold_of(store, tokens, n, folder=f"fold-{n}/t", fingerprint="t") for n in (0, 1)]
    whole = TokensView(tokens)
    for name in ("trainable", "trainable_tokens", "label_tokens", "truncated", "response_lost"):
        values = [getattr(TokensView(fold), name) for fold in folds]
        assert sum(values) == getattr(whole, name), name
        assert name in ("truncated", "response_lost") or min(values) > 0
    assert TokensView(folds[0]).tokenizer == whole.tokenizer
    rows = [row for row in rows_of(store, tokens) if row["example_id"] % 2 == 1]
    assert rows_of(store, folds[1]) == rows
    assert TokensView(folds[1]).trainable_tokens == sum(
        len(row["input_ids"]) for row in rows if any(row["loss_mask"])
    )


def test_a_response_without_its_prompt_begins_one_token_before_its_first_label(finished):
    store = Store(finished[0])
    tokens = store.manifest(store.read_json("run.json")["current"]["tokens"])
    found = without_prompts(store, tokens, folder="without_prompt/t", fingerprint="t")
    cut = 0
    for whole, alone in zip(rows_of(store, tokens), rows_of(store, found), strict=True):
        first = whole["loss_mask"].index(True) - 1 if any(whole["loss_mask"]) else 0
        assert alone["input_ids"] == whole["input_ids"][first:]
        assert alone["loss_mask"] == whole["loss_mask"][first:]
        assert alone["num_label_tokens"] == whole["num_label_tokens"]
        assert not alone["loss_mask"][0]
        cut += first > 0
    assert cut > 200
    assert TokensView(found).label_tokens == TokensView(tokens).label_tokens


@pytest.mark.slow
def test_ifd_scores_responses_alone_at_the_last_checkpoint(finished, copy, start):
    config = settings(copy, selection__selector="ifd", selection__export=[])
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    assert stages_run(copy)[0] == [
        "without_prompt/tokens", "without_prompt", "rankings/ifd", "selections/ifd-seed0"
    ]  # fmt: skip
    store, last = run.store, max(checkpoints_of(run.done["proxy"]).items())[1]
    model = AutoModelForCausalLM.from_pretrained(copy / last)
    tokens = rows_of(store, run.done["tokens"])[:20]
    alone = {row["example_id"]: row["loss"] for row in rows_of(store, run.done["without_prompt"])}
    for row in tokens:
        first = row["loss_mask"].index(True) - 1
        bare = {name: row[name][first:] for name in ("input_ids", "loss_mask")}
        assert alone[row["example_id"]] == pytest.approx(loss_of(model, bare), rel=2e-5)
    losses = {r["example_id"]: r["losses"][-1] for r in rows_of(store, run.done["trajectories"])}
    ratio = {i: losses[i] / alone[i] for i in losses}
    helped = sorted((r for r in ratio.values() if r <= 1), reverse=True)
    wanted = helped[:40] if len(helped) >= 40 else helped
    got = sorted((ratio[i] for i in selection.ids().tolist()), reverse=True)
    assert [r for r in got if r <= 1] == pytest.approx(wanted, rel=1e-6)


def test_losses_of_two_proxies_are_joined_by_id_and_cut_to_the_same_number(local_ray, store):
    """The first has checkpoints 2, 4, 6, 7, the other 2, 4, 6: of the first, 6 is left out."""
    table = pa.table({"example_id": [1, 2, 4, 5], "source": ["a", "b", "a", "b"]})
    part = store.write_part(table, "corpus/c", "part-00000", suffix="parquet")
    given = store.commit("corpus/c", "c", [part], {})

    def losses(name, ids, steps):
        parts = [
            store.write_part(
                pa.table([ids, [i + step / 10 for i in ids], [i + 1 for i in ids]], schema=LOSSES),
                f"losses/{name}", f"step-{step:06d}/part-00000",
            )
            for step in steps
        ]  # fmt: skip
        return store.commit(f"losses/{name}", name, parts, {"steps": steps})

    one, other = losses("one", [2, 4], [2, 4, 6, 7]), losses("other", [1, 5], [2, 4, 6])
    found = assemble(store, given, one, other, folder="trajectories/t", fingerprint="t")
    assert [{**row, "losses": [round(x, 5) for x in row["losses"]]} for row in
            rows_of(store, found)] == [
        {"example_id": 1, "source": "a", "losses": [1.2, 1.4, 1.6], "num_label_tokens": 2},
        {"example_id": 2, "source": "b", "losses": [2.2, 2.4, 2.7], "num_label_tokens": 3},
        {"example_id": 4, "source": "a", "losses": [4.2, 4.4, 4.7], "num_label_tokens": 5},
        {"example_id": 5, "source": "b", "losses": [5.2, 5.4, 5.6], "num_label_tokens": 6},
    ]  # fmt: skip
    assert found.info["steps"] == [2, 4, 7]


def test_clusterings_of_one_run_have_names_of_their_own():
    plan = plan_of(settings("unused"))
    names = {
        each: plan.groups(plan.config.selection.model_copy(update={"selector": each})).name
        for each in ("s2l", "s2l_official_clusters", "s2l_official", "loss_kmeans")
    }
    assert names == {
        "s2l": "clusters", "s2l_official_clusters": "clusters_official",
        "s2l_official": "clusters_by_source", "loss_kmeans": "clusters_of_means",
    }  # fmt: skip
    # Settings that the official clustering does not have do not make it again.
    for selector, same in (("s2l_official_clusters", True), ("s2l", False)):
        folders = {
            plan_of(settings("unused", selection__selector=selector, clusters__max_iter=n))
            .groups(plan.config.selection.model_copy(update={"selector": selector}))
            .folder
            for n in (10, 20)
        }
        assert (len(folders) == 1) == same


def test_the_plan_of_a_cross_fitted_selection_has_no_proxy_of_the_whole_corpus():
    config = settings("unused", selection__selector="cross_fitted@0.5",
                      evaluation__baselines=["random", "el2n"])  # fmt: skip
    plan = plan_of(config)
    names = [stage.name for stage in walk([plan.selection(config.selection)])]
    assert names[:2] == ["corpus", "tokens"] and sorted(names[2:9]) == sorted(MADE)
    assert names[9:] == [
        "learned", "clusters_of_learned", "selections/cross_fitted-0.5-seed0"
    ]  # fmt: skip
    plain = plan_of(settings("unused", selection__selector="cross_fitted"))
    groups = [each.groups(each.config.selection).folder for each in (plan, plain)]
    assert groups[0] == groups[1]  # the quotas alone differ
