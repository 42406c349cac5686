"""What `plan` prints: without Ray, and without writing anything."""

import json

import pytest
import ray
import yaml
from support.runs import settings

from s2l_ray import cli
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


def plan(capsys, *arguments):
    status = 0
    try:
        cli.main(["plan", *map(str, arguments)])
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
                 "selections/s2l-seed0", "selections/random-seed1", "targets/s2l-seed0",
                 "targets/random-seed1", "evaluations"):  # fmt: skip
        assert f"  {name} " in stages, name
    assert "  corpus                   to do    tasks of 1 CPU\n" in stages
    assert "48 tokens (proxy), 48 tokens (target)" in text
    assert "  proxy: 1 worker train a gpt_neox from scratch\n    host memory of each: " in text


def test_a_stage_that_exists_is_told(config, capsys, tmp_path):
    _, told, _ = plan(capsys, config, "--json")
    assert {each["state"] for each in json.loads(told)["stages"]} == {"to do", "unknown"}
    found, _ = forecast.forecasts(cli_config(config))
    stage = next(iter(forecast.stages_of(cli_config(config))))
    (tmp_path / "run" / stage.folder).mkdir(parents=True)
    (tmp_path / "run" / stage.folder / "manifest.json").write_text("{}")
    after, _ = forecast.forecasts(cli_config(config))
    assert [each.stage for each in found] == [each.stage for each in after]
    assert [each.stage for each in after if each.state == "done"] == ["corpus"]


def cli_config(path):
    from s2l_ray.config import load

    return load(path)


def test_a_target_that_does_not_fit_is_refused_with_status_1(config, capsys):
    status, text, said = plan(capsys, config, SMALL, "--gpu-memory", "200 MB")
    assert status == 1
    assert "each GPU: " in text and "; has 0.2 GB (--gpu-memory)" in text
    assert said.startswith("error: target: micro-batches of 20 x 48 tokens need ")
    status, text, said = plan(capsys, config, SMALL, "--gpu-memory", "24GB")
    assert (status, said) == (0, "") and "does not fit" not in text


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
    assert f"target: 1 worker train {tmp_path}/none\n    unknown: " in text


@pytest.mark.parametrize("text", ["80", "eighty GB", "0GB", "1.2.3GB"])
def test_a_size_without_a_unit_is_refused(config, capsys, text):
    status, _, said = plan(capsys, config, f"--gpu-memory={text}")
    assert status == 2 and f"expected a size such as 80GB, got '{text}'" in said
