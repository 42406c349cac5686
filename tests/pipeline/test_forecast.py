"""What `plan` prints: without Ray, and without writing anything."""

import json
import re

import pytest
import ray
import yaml
from support.runs import settings

from s2l_ray import cli
from s2l_ray.config import load
from s2l_ray.pipeline import forecast

SMALL = "target.workers={num_workers: 1, gpus_per_worker: 1}"


@pytest.fixture
def config(tmp_path):
    """A configuration, its corpus and its run directory, in a folder of their own."""
    row = {"instruction": "a", "output": "b", "source": "c"}
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row | {"output": str(n)}) + "\n" for n in range(20)))
    data = settings(tmp_path / "run", corpus__path=str(corpus)).model_dump(
        mode="json", exclude_unset=True
    )
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "my.yaml"


def plan(capsys, *arguments, rate="1000"):
    """Run `plan`, with a rate given: measuring one takes 20 s."""
    status, given = 0, ["--tokens-per-second", rate] if rate else []
    try:
        cli.main(["plan", *map(str, arguments), *given])
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


def test_it_lists_stages_and_memory_and_leaves_no_trace(config, capsys, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray is started"))
    before = sorted(config.parent.rglob("*"))
    status, text, _ = plan(capsys, config)
    assert status == 0 and sorted(config.parent.rglob("*")) == before
    stages = text.partition("memory, estimated")[0]
    for name in ("corpus", "tokens", "proxy", "losses", "trajectories", "clusters",
                 "selections/s2l-seed0", "selections/random-seed1",
                 "exports/s2l-seed0/alpaca", "targets/s2l-seed0",
                 "targets/random-seed1", "evaluations"):  # fmt: skip
        assert f"  {name} " in stages, name
    assert "corpus: 20 rows, " in text and "a sample of 20 rows" in text
    assert "48 tokens (proxy), 48 tokens (target)" in text
    assert "  proxy: 1 worker trains a gpt_neox from scratch\n    host memory of each: " in text


def test_a_stage_that_exists_is_told(config, capsys, tmp_path):
    _, told, _ = plan(capsys, config, "--json")
    assert {each["state"] for each in json.loads(told)["stages"]} == {"to do"}
    found, _ = forecast.forecasts(load(config))
    stage = next(iter(forecast.stages_of(load(config))))
    (tmp_path / "run" / stage.folder).mkdir(parents=True)
    (tmp_path / "run" / stage.folder / "manifest.json").write_text("{}")
    after, _ = forecast.forecasts(load(config))
    assert [each.stage for each in found] == [each.stage for each in after]
    assert [each.stage for each in after if each.state == "done"] == ["corpus"]


def test_a_target_that_does_not_fit_is_refused_with_status_1(config, capsys):
    status, text, said = plan(capsys, config, SMALL, "--gpu-memory", "200 MB")
    assert status == 1
    assert "each GPU: " in text and "; has 0.2 GB (as given)" in text
    assert said.startswith("error: target: micro-batches of 20 x 48 tokens need ")
    status, text, said = plan(capsys, config, SMALL, "--gpu-memory", "24GB")
    assert (status, said) == (0, "") and "does not fit: " not in text


def test_the_nominal_memory_goes_by_the_accelerator_type(config, capsys):
    kind = "target.workers={gpus_per_worker: 1, accelerator_type: L40S}"
    _, text, _ = plan(capsys, config, kind)
    assert "; has 48 GB (L40S, nominal)" in text


def test_json_has_sizes_in_bytes(config, capsys):
    status, text, _ = plan(capsys, config, SMALL, "--gpu-memory=24GiB", "--json")
    told = json.loads(text)
    [target] = [each for each in told["memory"] if each["section"] == "target"]
    assert status == 0 and target["gpu_has"] == 24 * 2**30
    assert target["gpu"]["weights"] > 1000 and target["refused"] is None
    assert {each["section"] for each in told["memory"]} == {"proxy", "target", "trajectories"}


def test_what_is_out_of_reach_is_unknown_and_no_error(config, capsys, tmp_path):
    status, text, _ = plan(
        capsys, config, "corpus.path=nowhere.jsonl", f"target.model={{name: {tmp_path}/none}}"
    )
    assert status == 0
    assert "which stages exist already is unknown: corpus.path: 'nowhere.jsonl'" in text
    assert f"target: 1 worker trains {tmp_path}/none\n    unknown: " in text


@pytest.mark.parametrize("text", ["80", "eighty GB", "0GB", "1.2.3GB"])
def test_a_size_without_a_unit_is_refused(config, capsys, text):
    status, _, said = plan(capsys, config, f"--gpu-memory={text}")
    assert status == 2 and f"expected a size such as 80GB, got '{text}'" in said


def numbers(capsys, *arguments, rate="1000"):
    status, text, said = plan(capsys, *arguments, "--json", rate=rate)
    assert (status, said) == (0, ""), said
    told = json.loads(text)
    return told, {each["stage"]: each for each in told["stages"]}


def test_prices_follow_from_the_counts(config, capsys):
    told, stages = numbers(capsys, config, "corpus.heldout_share=0.25", "prompt.max_length=40")
    examples, tokens = told["corpus"]["examples"], told["corpus"]["tokens"]
    assert examples + told["corpus"]["heldout"] == told["corpus"]["rows"] == 20
    # An epoch of batches of 32 is one step; it sees 32 examples.
    assert stages["proxy"]["tokens"] == pytest.approx(32 * tokens / examples)
    # The one step keeps one checkpoint.
    assert stages["losses"]["tokens"] == tokens
    # 2 operations per weight and scored token, 6 per trained one.
    per_token = stages["losses"]["flops"] / stages["losses"]["tokens"] / 2
    assert stages["proxy"]["flops"] == pytest.approx(6 * per_token * stages["proxy"]["tokens"])
    # The target: 20 examples (a budget of 40 takes all) in 2 epochs of batches of 20.
    target = stages["targets/s2l-seed0"]
    assert target["examples"] == examples and target["tokens"] == pytest.approx(
        20 * -(-2 * examples // 20) * tokens / examples
    )
    assert "proxy: the training keeps one checkpoint" in told["unfit"][-1]


def test_a_rate_twice_as_high_halves_the_passes(config, capsys):
    epochs = ["proxy.epochs=4000", "proxy.num_checkpoints=1000"]
    slow, fast = (numbers(capsys, config, *epochs, rate=rate)[1] for rate in ("1000", "2000"))
    assert slow["proxy"]["seconds"] == pytest.approx(2 * fast["proxy"]["seconds"], rel=0.1)
    # One worker reserves one CPU.
    assert slow["proxy"]["cpu_hours"] == pytest.approx(slow["proxy"]["seconds"] / 3600)


def test_money_is_hours_bytes_and_requests(config, capsys):
    prices = "prices={gpu_hour: 3, cpu_hour: 0.5, gb_month: 0.02, thousand_puts: 5, currency: EUR}"
    told, stages = numbers(capsys, config, prices)
    proxy, all_of_it = stages["proxy"], told["total"]
    assert proxy["money"] == pytest.approx(
        0.5 * proxy["cpu_hours"]
        + 0.02 * proxy["stored"]["bytes"] / 1e9
        + 5 * proxy["stored"]["puts"] / 1000
    )
    assert all_of_it["money"] == pytest.approx(sum(each["money"] for each in stages.values()))
    assert told["currency"] == "EUR"
    _, text, _ = plan(capsys, config, prices)
    assert re.search(r"GETs +EUR\n", text)


def test_a_known_gpu_is_an_estimate_and_gives_its_memory(config, capsys):
    gpus = [
        f"{name}.workers={{gpus_per_worker: 1}}" for name in ("proxy", "target", "trajectories")
    ]
    told, stages = numbers(capsys, config, *gpus, "--gpu=h100", rate=None)
    assert told["speed"]["proxy"]["how"].startswith("estimate for H100: 30% of its peak")
    # 30% of 67e12 operations/s in fp32.
    per_token = stages["proxy"]["flops"] / stages["proxy"]["tokens"]
    assert told["speed"]["proxy"]["training"] == pytest.approx(0.3 * 67e12 / per_token)
    assert {each["gpu_has"] for each in told["memory"]} == {80e9}
    assert stages["proxy"]["gpu_hours"] == pytest.approx(stages["proxy"]["seconds"] / 3600)


def test_a_gpu_that_no_worker_has_is_refused(config, capsys):
    status, _, said = plan(capsys, config, "--gpu=H100", rate=None)
    assert status == 1 and "--gpu H100: no worker that trains has a GPU: set " in said


def test_scoring_on_other_hardware_than_training_is_unknown(config, capsys):
    gpus = [f"{name}.workers={{gpus_per_worker: 1}}" for name in ("proxy", "target")]
    told, stages = numbers(capsys, config, *gpus, "--gpu=H100", rate=None)
    assert stages["proxy"]["seconds"] > 0 and stages["losses"]["seconds"] is None
    assert "other hardware" in told["speed"]["proxy"]["how"]


def test_a_gpu_that_is_neither_here_nor_named_leaves_the_time_unknown(config, capsys):
    told, stages = numbers(capsys, config, "proxy.workers={gpus_per_worker: 1}", rate="0.5")
    assert stages["proxy"]["seconds"] > 0
    told, stages = numbers(
        capsys, config, "proxy.workers={gpus_per_worker: 1}",
        "target.workers={gpus_per_worker: 1}", rate=None,
    )  # fmt: skip
    assert "this machine has no GPU to measure" in told["speed"]["proxy"]["how"]
    assert stages["proxy"]["seconds"] is None and stages["proxy"]["flops"] > 0
    assert told["total"]["seconds"] is None and stages["corpus"]["seconds"] > 0


def test_what_the_subset_must_be_worth(config, capsys):
    epochs = ["proxy.epochs=40"]
    told, stages = numbers(capsys, config, *epochs)
    selecting = stages["proxy"]["flops"] + stages["losses"]["flops"]
    training = stages["targets/s2l-seed0"]["flops"]
    against = told["against_random"]
    assert against["worth"] == pytest.approx(1 + selecting / training)
    # At the break-even, a tenth more random data costs as much as selecting.
    more = 0.1 * training / against["parameters"] * against["break_even"]["1.1"]
    assert more == pytest.approx(selecting)
    assert against["worth_by_size"]["8B"] == pytest.approx(
        1 + selecting / (training / against["parameters"] * 8e9)
    )
    _, text, _ = plan(capsys, config, *epochs)
    assert f"worth more than {against['worth']:.3g} times as many random examples" in text
    assert "more than the corpus has: training on all of it costs less" in text


def test_seeds_that_show_nothing_are_told(config, capsys):
    told, _ = numbers(capsys, config, "evaluation.seeds=[3]")
    few, more = told["sensitivity"]
    assert few == few | {"field": "evaluation.seeds", "seeds": 1, "least": None, "verdict": False}
    # Six pairs and three comparisons: t of the strictest step of Holm's correction, by hand
    # (scipy.stats.nct): 4.60 standard errors at 80% power.
    assert more["least"] == pytest.approx(4.597 * 0.006 / 6**0.5, rel=0.01)


def test_what_does_not_fit_is_told_with_what_to_change(config, capsys):
    told, _ = numbers(
        capsys, config, "prompt.max_length=4", "selection.budget=5000", "clusters.n_clusters=30",
        "trajectories.workers={num_workers: 16, cpus_per_worker: 64}",
    )  # fmt: skip
    fields = [each.partition(":")[0] for each in told["unfit"]]
    assert fields == ["prompt.max_length", "selection.budget", "clusters.n_clusters",
                      "proxy", "trajectories.workers"]  # fmt: skip
    assert "16 workers would reserve 1024 CPUs" in told["unfit"][-1]


def test_a_faulty_rate_or_gpu_is_refused(config, capsys):
    status, _, said = plan(capsys, config, rate="-1")
    assert status == 2 and "expected a number above 0, got '-1'" in said
    status, _, said = plan(capsys, config, "--gpu=GTX-9")
    assert status == 2 and "expected one of T4, V100," in said


@pytest.mark.slow
def test_the_rate_is_measured_by_processes_like_the_runs(config, capsys):
    told, stages = numbers(
        capsys, config, "target.zero_stage=2", "target.workers={num_workers: 2}",
        "target.micro_batch_size=10", rate=None,
    )  # fmt: skip
    for section, count in (("proxy", 1), ("target", 2)):
        speed = told["speed"][section]
        assert 100 < speed["training"] < 1e6 and 100 < speed["scoring"] < 1e7
        assert f"{count} worker" in speed["how"] and "measured here" in speed["how"]
        assert 0.5 < speed["start"] < 300
    assert stages["targets/s2l-seed0"]["seconds"] > stages["targets/s2l-seed0"]["tokens"] / (
        2 * told["speed"]["target"]["training"]
    )
