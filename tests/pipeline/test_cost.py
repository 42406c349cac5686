"""Costs by hand-computed numbers, and parameters counted by hand."""

import pytest
from support.runs import Given

from s2l_ray.analysis.cost import Cost, Step, times
from s2l_ray.config import validate
from s2l_ray.config.prices import PricesConfig
from s2l_ray.models.properties import parameters_at_work
from s2l_ray.pipeline import cost
from s2l_ray.pipeline.cost import cost_of
from s2l_ray.store import Manifest, Part

# Two layers of width 8: attention 4 x 8 x 8, and 3 x 8 x 16 of an MLP with a gate; three norms.
LLAMA = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
BODY, HEAD = 2 * (4 * 64 + 3 * 128 + 2 * 8) + 8, 100 * 8


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_counts_and_the_input_embeddings_do_not(tied):
    llama = LLAMA | {"tie_word_embeddings": tied}
    assert parameters_at_work(llama, 1.0) == BODY + HEAD
    assert parameters_at_work(llama, 0.25) == BODY + HEAD / 4  # at label tokens alone


def test_a_token_goes_to_some_of_the_experts():
    mixtral = LLAMA | {"model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 4,
                       "num_experts_per_tok": 2}  # fmt: skip
    router = 4 * 8
    wanted = 2 * (4 * 64 + router + 2 * (3 * 128) + 2 * 8) + 8 + HEAD
    assert parameters_at_work(mixtral, 1.0) == wanted


def test_embeddings_of_places_do_not_count():
    gpt2 = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 8, "n_layer": 1, "n_head": 2,
            "n_positions": 50}  # fmt: skip
    # c_attn 8 x 24 + 24, c_proj 8 x 8 + 8, MLP 8 x 32 + 32 and 32 x 8 + 8, two norms and a last one
    assert parameters_at_work(gpt2, 1.0) == (216 + 72 + 288 + 264 + 32) + 16 + 800


def costs(**changes):
    steps = [
        Step("proxy", 100.0, 200.0, 0.0, 6e9),
        Step("losses", 50.0, 50.0, 0.0, 3e9),
        Step("clusters", None, None, None, None),
    ]
    known = {"steps": steps, "corpus_tokens": 1000, "subset_tokens": 100, "epochs": 5.0}
    return Cost(**known | changes)


def test_break_even_by_hand():
    found = costs()
    assert found.flops == 9e9
    assert found.break_even == 9e9 / (6 * 5 * 900)  # 333,333.3
    assert found.on_subset is None and found.on_corpus is None
    assert found.summary == (
        "The selection took 9.00e+09 floating-point operations. Training on the subset takes 10.0% "
        "of the operations of training on the corpus, with 5 epochs (the target's). Selection and "
        "training on the subset together cost less than training on the corpus if the target has "
        "more than 333,000 parameters."
    )
    # At the break-even both ways cost the same.
    even = costs(parameters=found.break_even)
    assert even.flops + even.on_subset == pytest.approx(even.on_corpus)


def test_a_trained_target_is_held_against_the_corpus():
    large = costs(parameters=1_000_000)
    assert (large.on_subset, large.on_corpus) == (3e9, 3e10)
    assert large.summary.endswith("For this target (1,000,000 parameters) they cost 60.0% less.")
    small = costs(parameters=100_000)  # 9e9 + 3e8 against 3e9
    assert small.summary.endswith("For this target (100,000 parameters) they cost 210.0% more.")


def test_words_where_nothing_is_spared_or_no_target_is_configured():
    assert "a fixed number of steps, so a subset saves nothing" in costs(epochs=None).summary
    assert "all tokens of the corpus, so it saves nothing" in costs(subset_tokens=1000).summary
    assert costs(epochs=None).break_even is costs(subset_tokens=1000).break_even is None
    text = costs(like_proxy=True, epochs=1.9997).summary
    assert "with 2 epochs (the proxy's, as no target is configured). Selection" in text


def test_what_a_subset_must_be_worth_beside_random_by_hand():
    # 9e9 operations to select; a target trains on 5 epochs of 100 tokens, 6 operations each.
    found = costs().against_random
    assert found.worth_for(3_000_000) == 1 + 9e9 / (6 * 3e6 * 500)  # 2: as much again
    assert found.break_even(2) == 3_000_000 and found.break_even(1.5) == 6_000_000
    assert found.worth is None and costs(parameters=3_000_000).against_random.worth == 2
    assert costs(adapters=True).against_random.break_even(2) == 4_500_000
    one, smallest = found.sentences
    assert one.endswith("×1.0030 for 1B, ×1.00038 for 8B, ×1.000043 for 70B parameters.")
    assert smallest.endswith("×1.1 from 30M, ×1.5 from 6M, ×2 from 3M parameters on.")
    assert costs(trained_elsewhere=True).against_random is None
    assert costs(epochs=None).against_random is costs(subset_tokens=0).against_random is None
    free = costs(steps=[]).against_random
    assert free.sentences == [
        "The selection passes nothing through a model: it costs what random does."
    ]


@pytest.mark.parametrize(
    ("worth", "told"),
    [(1, "×1"), (1.0000043, "×1.0000043"), (1.019, "×1.019"), (1.0999, "×1.100"), (2.5, "×2.5")],
)
def test_worths_show_what_exceeds_one(worth, told):
    assert times(worth) == told


def test_hours_and_money_by_hand():
    steps = [
        Step("proxy", 3600.0, 7200.0, 3600.0, 6e9),
        Step("losses", 1800.0, 1800.0, 1800.0, 3e9),
    ]
    target = Step("targets/x", 7200.0, 14400.0, 10800.0, None)
    prices = PricesConfig(gpu_hour=2, cpu_hour=0.1, currency="EUR")
    found = costs(steps=steps, target=target, prices=prices).taken
    # 1.5 hours of a GPU and 2.5 of a CPU; 3 and 4.
    assert found == (
        "The selection took 1 h 30 min of GPU time (3.25 EUR). Training on the subset took 3 h 00 "
        "min of GPU time (6.40 EUR): by time, the subset must be worth ×1.5."
    )
    reused = Step("clusters", None, None, None, None)
    assert costs(steps=[*steps, reused]).taken == (
        "The selection took at least 1 h 30 min of GPU time."
    )
    on_cpus = [step._replace(gpu_seconds=0.0) for step in steps]
    assert costs(steps=on_cpus).taken == "The selection took 2 h 30 min of CPU time."
    little = PricesConfig(cpu_hour=0.001)
    assert costs(steps=on_cpus, prices=little).taken.endswith("(less than 0.01 USD).")
    assert costs(steps=[reused]).taken == ""


ON_CPUS, ON_GPUS = (
    Step("proxy", 1600.0, 1600.0, 0.0, 6e9),
    Step("targets/x", 3600.0, 3600.0, 28800.0, None),
)


@pytest.mark.parametrize(
    ("chosen", "trained", "took"),
    [
        (ON_CPUS, ON_GPUS, ["26 min 40 s of CPU time", "8 h 00 min of GPU time"]),
        (ON_GPUS, ON_CPUS, ["8 h 00 min of GPU time", "26 min 40 s of CPU time"]),
    ],
)
def test_cpu_time_is_no_share_of_gpu_time(chosen, trained, took):
    text = f"The selection took {took[0]}. Training on the subset took {took[1]}."
    for prices in (None, PricesConfig(gpu_hour=2), PricesConfig(cpu_hour=0.1)):
        told = costs(steps=[chosen], target=trained, prices=prices).taken
        if prices is None:
            assert told == text
        assert "worth" not in told and "Training on the subset took" in told


def test_cpu_and_gpu_time_compare_by_price():
    prices = PricesConfig(gpu_hour=2, cpu_hour=0.9)
    # 0.40 for 1600 s of a CPU; 16 + 0.90 for 8 h of a GPU and one of a CPU.
    assert costs(steps=[ON_CPUS], target=ON_GPUS, prices=prices).taken == (
        "The selection took 26 min 40 s of CPU time (0.40 USD). Training on the subset took 8 h 00 "
        "min of GPU time (16.90 USD): by price, the subset must be worth ×1.024."
    )
    told = costs(steps=[ON_GPUS], target=ON_CPUS, prices=prices).taken
    assert told.endswith("by price, the subset must be worth ×43.2.")
    told = costs(steps=[ON_CPUS], target=ON_CPUS._replace(cpu_seconds=3200.0)).taken
    assert told.endswith("by time, the subset must be worth ×1.5.")


def a_run(monkeypatch, target=None, selector="s2l", details=(), baselines=("random",), **scoring):
    """From manifests alone: 3 checkpoints of the proxy, two parts of 600 and 400 tokens, of which a
    quarter are labels; a proxy of 9 weights and a head of 4, a target of 45 and one of 20."""
    data = {
        "run_dir": "runs/x", "corpus": {"path": "x"}, "selection": {"selector": selector},
        "proxy": {"model": {"name": "p"}, "num_checkpoints": 3, "workers": {"num_workers": 2}},
        "trajectories": {"workers": {"num_workers": 3, "gpus_per_worker": 0.5}, **scoring},
        "evaluation": {"baselines": list(baselines)},
    }  # fmt: skip
    config = validate(data | ({"target": target} if target else {}))
    tokens = [
        Part(f"part-{i}", "f", 1, 1, "c", {"trainable_tokens": n, "label_tokens": n // 4})
        for i, n in enumerate((600, 400))
    ]
    proxy = {"seconds": 70.0, "workers": 4, "tokens": 2500, "checkpoints": [5, 10, 15]}
    infos = {
        "proxy": proxy, "losses": {"steps": [5, 10, 15]}, "trajectories": {}, "clusters": {},
        f"rankings/{selector}": {}, "before": {"steps": [0]},
        **{f"details/{when}": {"steps": [step]} for when, step in details},
        f"selections/{selector}-seed0": {"tokens": 200, "examples": 10},
    }  # fmt: skip
    if target:
        infos[f"targets/{selector}-seed0"] = {
            "seconds": 33.0,
            "checkpoints": [7],
            "tokens": 800,
            "workers": 2,
        }
    done = {name: Manifest(f"{name}/x", "x", [], info) for name, info in infos.items()}
    done["tokens"] = Manifest("tokens/x", "x", tokens, {})
    times = [
        {"stage": stage, "seconds": seconds, "reused": reused, "resumed": resumed}
        for stage, seconds, reused, resumed in (
            ("losses", 20.0, False, False),
            ("trajectories", 9.0, False, True),
            ("clusters", 0.0, True, False),
            (f"selections/{selector}-seed0", 2.0, False, False),
        )
    ]
    monkeypatch.setattr(cost.ray, "cluster_resources", lambda: {"CPU": 8.0})
    sizes = {"proxy": (9, 4), "targets": (45, 20)}

    def parameters(_, made, label_share, model):
        body, head = sizes[made.folder.split("/")[0]]
        return body + label_share * head

    monkeypatch.setattr(cost, "_parameters", parameters)
    run = Given.of(config, done, times=times)
    return cost_of(run, done[f"selections/{selector}-seed0"])


def test_a_run_is_read_by_its_manifests_and_times(monkeypatch):
    found = a_run(monkeypatch)
    assert found.steps == [
        Step("proxy", 70.0, 280.0, 0.0, 6 * 10 * 2500),
        Step("losses", 20.0, 60.0, 30.0, 2 * 10 * 3 * 1000),
        Step("trajectories", None, None, None, None),
        Step("clusters", None, None, None, None),
        Step("selections/s2l-seed0", 2.0, 16.0, 0.0, None),
    ]
    assert (found.corpus_tokens, found.subset_tokens) == (1000, 200)
    assert found.epochs == 2.5 and found.like_proxy and found.parameters is None


def test_details_are_counted_once_and_the_target_with_its_epochs(monkeypatch):
    target = {"model": {"name": "t"}, "epochs": 4}
    found = a_run(monkeypatch, target, "grand", details=[("early", 5)])
    flops = {step.stage: step.flops for step in found.steps}
    assert flops == {
        "proxy": 150_000, "losses": 40_000, "trajectories": None, "details/early": 20_000,
        "rankings/grand": None, "selections/grand-seed0": None,
    }  # fmt: skip
    assert (found.epochs, found.parameters) == (4, 50)
    assert found.target == Step("targets/grand-seed0", 33.0, 66.0, 0.0, None)
    assert (found.on_subset, found.on_corpus) == (6 * 50 * 4 * 200, 6 * 50 * 4 * 1000)
    assert not found.like_proxy
    fixed = a_run(monkeypatch, target | {"max_steps": 9, "global_batch_size": 8})
    assert fixed.epochs is None and fixed.against_random.subset_tokens == 9 * 8 * 20


def test_details_of_both_checkpoints_leave_one_pass_to_the_losses(monkeypatch):
    details = [("early", 5), ("final", 15)]
    found = a_run(monkeypatch, selector="confidence_curriculum", details=details)
    flops = {step.stage: step.flops for step in found.steps if step.flops}
    assert flops == {
        "proxy": 150_000, "details/early": 20_000, "details/final": 20_000, "losses": 20_000,
    }  # fmt: skip


def test_losses_that_were_made_with_another_selector_s_details_are_counted_there(monkeypatch):
    baselines = ["random", "el2n"]
    found = a_run(monkeypatch, details=[("early", 5)], baselines=baselines)
    flops = {step.stage: step.flops for step in found.steps}
    assert (flops["losses"], flops["details/early"]) == (40_000, 20_000)
    assert found.flops == a_run(monkeypatch).flops  # where nobody asks for them


def test_the_time_of_a_pool_that_grows_is_not_known(monkeypatch):
    found = a_run(monkeypatch, max_workers=5)
    [losses] = [step for step in found.steps if step.stage == "losses"]
    assert losses == Step("losses", 20.0, None, None, 2 * 10 * 3 * 1000)


def test_scores_before_the_training_are_counted(monkeypatch):
    found = a_run(monkeypatch, selector="high_learnability")
    assert [step.flops for step in found.steps if step.stage == "before"] == [2 * 10 * 1000]
