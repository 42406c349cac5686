"""The selector's targets against those of the baselines."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from markupsafe import escape
from support.runs import MARK, Given, corpus, ids_of, settings

from s2l_ray import evaluation
from s2l_ray.errors import TooFew
from s2l_ray.pipeline import comparison
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.stage import Stage
from s2l_ray.report import gather
from s2l_ray.report.html import sentences
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import checkpoints_of


@pytest.mark.slow
def test_compare_pairs_the_arms_and_keeps_heldout_apart(finished, copy, start):
    # A baseline that is the selector itself is one arm, not two.
    config = settings(copy, evaluation__baselines=["random", "s2l"], evaluation__targets_at_once=2)
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    arms = comparison.baselines(run)
    assert [(arm["method"], arm["selection_seed"]) for arm in arms] == [
        ("s2l", 0), ("s2l", 1), ("random", 0), ("random", 1),
    ]  # fmt: skip
    assert {arm["examples"] for arm in arms} == {40}
    assert {arm["steps"] for arm in arms} == {4}
    assert len({arm["loss"] for arm in arms}) == 4
    for arm in arms:
        assert set(arm["by_source"]) == {"sums", "words", "chat"}
        assert 0 < arm["loss"] < 2 * np.log(320)
    assert len({arm["label_tokens"] for arm in arms}) == 1

    # The s2l arm of the run's own seed is the run's own subset.
    assert run.done["selections/s2l-seed0"] == selection.manifest == finished[1].manifest
    # The loss by hand, from the losses of the last arm.
    losses = run.done["evaluations/random-seed1/heldout"]
    table = pa.concat_tables([run.store.read_part(losses.folder, part) for part in losses.parts])
    weights = table["num_label_tokens"].to_numpy().astype(float)
    assert arms[-1]["loss"] == pytest.approx(np.average(table["loss"].to_numpy(), weights=weights))

    # Each is compared with the baseline's target of its own seed.
    heldout = run.store.manifest(f"{run.done['corpus'].folder}/heldout")
    of_seed = (run.done[f"evaluations/{name}-seed1/heldout"] for name in ("s2l", "random"))
    mine, other = (evaluation.read_losses(run.store, [(heldout, scored)]) for scored in of_seed)
    less, labels = mine.total - other.total, mine.labels
    residual = less - labels * less.sum() / labels.sum()
    wanted = np.sqrt(len(less) / (len(less) - 1) * (residual**2).sum()) / labels.sum()
    [shown] = [arm for arm in gather.arms_of(arms) if (arm.selector, arm.seed) == ("s2l", 1)]
    assert shown.error_over_examples == pytest.approx(wanted, rel=1e-3) and wanted > 0
    assert [arm.error_over_examples is None for arm in gather.arms_of(arms)] == [
        False, False, True, True,
    ]  # fmt: skip

    # Held-out examples are scored, and nothing was trained on them.
    hidden = set(ids_of(run.store, heldout))
    assert len(hidden) == heldout.rows == 240 - run.done["corpus"].rows > 10
    assert set(table["example_id"].to_pylist()) == hidden
    trained = ["tokens", "trajectories"] + [
        f"{kind}/{name}-seed{seed}{end}"
        for name in ("s2l", "random")
        for seed in (0, 1)
        for kind, end in (("selections", ""), ("targets", "/tokens"))
    ]
    for stage in trained:
        assert hidden.isdisjoint(ids_of(run.store, run.done[stage])), stage

    # Each stage is reported once, and a subset of one part is not shuffled again.
    names = [entry["stage"] for entry in run.times]
    assert len(names) == len(set(names)) and not any(name.endswith("/dealt") for name in names)

    page = Path(gather.write(run, selection, arms)).read_text()
    assert "s2l" in page and "random" in page
    for selector in ("s2l", "random"):
        losses = [arm["loss"] for arm in arms if arm["method"] == selector]
        assert f"{np.mean(losses):.2f} ± " in page
    assert MARK not in page
    shown = gather.gather(run, selection, arms)
    assert sum(shown.corpus_by_source.values()) + shown.n_held_out == 240
    assert sum(shown.subset_by_source.values()) == sum(shown.cluster_chosen) == 40
    assert sum(shown.cluster_sizes) == sum(shown.length_corpus) == run.done["corpus"].rows
    assert sum(shown.length_subset) == 40
    assert [curve.name for curve in shown.curves] == ["proxy", "s2l", "s2l", "random", "random"]
    assert {curve.steps[-1] for curve in shown.curves[1:]} == {4}

    # Costs, with the weights of one layer of each model counted by hand.
    cost, proxy, tokens = shown.cost, run.done["proxy"], run.done["tokens"]
    assert [step.stage for step in cost.steps] == [
        "proxy", "losses", "trajectories", "clusters", "selections/s2l-seed0",
    ]  # fmt: skip
    vocab = run.store.read_json(max(checkpoints_of(proxy).items())[1], "config.json")["vocab_size"]
    scored, labels = (
        sum(part.stats[name] for part in tokens.parts)
        for name in ("trainable_tokens", "label_tokens")
    )
    head = 32 * vocab * labels / scored  # used at label tokens alone
    weights = round(32 * 96 + 96 + 32 * 32 + 32 + 2 * 32 * 64 + 64 + 32 + 3 * 2 * 32 + head)
    assert cost.steps[0].flops == 6 * weights * proxy.info["tokens"]
    assert cost.steps[1].flops == 2 * weights * 3 * scored
    assert cost.parameters == round(4 * 32 * 32 + 3 * 32 * 64 + 3 * 32 + head)
    assert (cost.epochs, cost.corpus_tokens) == (2, scored)
    assert cost.subset_tokens == selection.info["tokens"]
    assert all(escape(sentence) in page for sentence in sentences(cost.summary))

    # And again: nothing is trained twice.
    run.lease.release()
    again = start(config)
    pipeline.select(corpus(), config, run=again)
    assert comparison.baselines(again) == arms
    assert all(entry["reused"] for entry in again.times)


def test_a_baseline_with_too_few_examples_is_left_out_and_told(monkeypatch, said, store):
    chosen = Manifest("selections/s", "s", [], {"examples": 3, "tokens": 30})
    trained = Manifest("targets/s", "t", [], {"step": 5, "tokens": 9, "history": []})
    asked = []

    def choose(_, choice):
        asked.append((choice.selector, choice.budget))
        if choice.selector == "prune_then_cluster":
            raise TooFew("3 examples, but only 2 can be chosen")
        return pipeline.Selection(None, chosen)

    monkeypatch.setattr(comparison, "choose_subset", choose)
    monkeypatch.setattr(comparison, "share_in", lambda *_: 0.5)
    monkeypatch.setattr(comparison, "prepare_evaluation", lambda _: None)
    monkeypatch.setattr(comparison, "target_stage", lambda *_, **__: Stage.given(trained))
    monkeypatch.setattr(
        comparison,
        "evaluate",
        lambda _, made: {n: {"loss": 1.0, "left_out": ["x"]} for n in made},
    )
    baselines = ["prune_then_cluster", "random"]
    config = settings("run", evaluation__baselines=baselines, evaluation__seeds=[0, 1])
    arms = comparison.baselines(Given.of(config, store=store))
    assert [(arm["method"], arm["selection_seed"]) for arm in arms] == [
        (selector, seed) for selector in ("s2l", "random", "prune_then_cluster") for seed in (0, 1)
    ]
    told = "prune_then_cluster is left out: 3 examples, but only 2 can be chosen"
    assert all(arm["too_few"] == told.split(": ")[1] for arm in arms[4:])
    assert gather._left_out(arms) == ["x", told]
    assert f"evaluation.baselines: {told}" in said()

    # As the run spells it, so that what other jobs made is found; as many examples, of tokens.
    for budget, wanted in ((0.5, 0.5), (40, 40), ("30 tokens", 3)):
        config = settings("run", selection__budget=budget, evaluation__seeds=[0, 1])
        asked.clear()
        comparison.baselines(Given.of(config, store=store))
        assert list(dict.fromkeys(asked)) == list(
            dict.fromkeys([("s2l", budget), ("s2l", wanted), ("random", wanted)])
        )

    config = settings("run", selection__selector="prune_then_cluster")
    with pytest.raises(TooFew, match="only 2 can be chosen"):
        comparison.baselines(Given.of(config, store=store))
