"""What a pilot chooses for its price, and a pilot from end to end."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from support.runs import rows, settings

from s2l_ray import cli
from s2l_ray.config import load
from s2l_ray.config.selection import RaceConfig
from s2l_ray.pipeline import pilot as pilot_module
from s2l_ray.pipeline.forecast import TO_DO, Forecast, stages_of
from s2l_ray.pipeline.outlook import price
from s2l_ray.pipeline.pilot import Limit, choose
from s2l_ray.pipeline.race import stand_in
from s2l_ray.pipeline.rates import Given
from s2l_ray.pipeline.stage import Stage


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """A price of 3,000 short examples, at 2,000 tokens per second."""
    folder = tmp_path_factory.mktemp("pilot")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows(3000)))
    config = settings(
        folder / "run", corpus__path=str(corpus), corpus__heldout_share=0.02, selection__budget=0.1
    )
    found = price(config, Given(tokens_per_second=2000))
    assert not isinstance(found, str), found
    return found


def test_a_generous_price_takes_everything(priced):
    pilot = choose(priced, Limit(minutes=1e6))
    config = pilot.config
    assert config.run_dir == priced.config.run_dir + "-pilot"
    assert config.corpus.share == 1 and config.target == priced.config.target
    assert len(config.compare.seeds) == 6 and config.compare.full == ["compute"]
    assert config.compare.selectors == ["s2l", "random_balanced", "random"]
    # 500 examples are held out, of 2,940.
    assert config.corpus.heldout_share == pytest.approx(0.17, abs=0.01)


def test_less_takes_less_and_always_fits(priced):
    shares, last = [], float("inf")
    for minutes in (1e6, 11, 7, 5, 4):
        limit = Limit(minutes=minutes)
        pilot = choose(priced, limit)
        assert limit.share(pilot.price) <= 1 and pilot.price.seconds <= last
        last = pilot.price.seconds
        shares.append((len(pilot.config.compare.seeds), pilot.config.corpus.share))
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]


def test_what_fits_nothing_is_refused_with_what_would(priced):
    with pytest.raises(
        ValueError, match=r"no comparison fits 6\.0 s; the cheapest needs --minutes "
    ) as e:
        choose(priced, Limit(minutes=0.1))
    minutes = float(re.search(r"--minutes (\d+)", str(e.value))[1])
    assert choose(priced, Limit(minutes=minutes)).config.compare.seeds == [0, 1, 2]


def test_gpu_hours_need_a_gpu(priced):
    with pytest.raises(ValueError, match="no stage of this configuration has a GPU"):
        choose(priced, Limit(gpu_hours=2))


def test_a_stand_in_has_the_proxys_size_and_the_targets_epochs(priced):
    config = priced.config
    target = stand_in(config)
    assert target.model == config.proxy.model and target.num_checkpoints is None
    assert target.epochs == config.target.epochs != config.proxy.epochs


def test_a_target_that_is_too_dear_gives_way_to_one_of_the_proxys_size(priced):
    dear = priced.rates["target"]._replace(training=1.0)
    pilot = choose(
        type(priced)(priced.work, priced.sizes, priced.rates | {"target": dear}),
        Limit(minutes=1000),
    )
    assert pilot.config.target.model == priced.config.proxy.model
    assert "targets of the proxy's size" in pilot.told[1]


@pytest.mark.slow
def test_a_pilot_ends_in_an_answer_and_continues(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pilot_module, "SEEDS", (1,))  # three take five minutes
    monkeypatch.setattr(pilot_module, "SHARES", (0.5,))
    data = settings(
        tmp_path / "run", corpus__path="demo", corpus__heldout_share=0.1, selection__budget=0.1
    ).model_dump(mode="json", exclude_unset=True)
    del data["corpus"]["num_parts"]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(data))
    command = ["pilot", str(tmp_path / "my.yaml"), "--minutes=9", "--tokens-per-second=40000"]
    cli.main(command)
    text = capsys.readouterr().out
    chosen = load(str(tmp_path / "run-pilot" / "pilot.yaml"))
    assert "pilot: the comparison that tells most within 9 min 00 s takes about " in text
    assert chosen.corpus.share == 0.5 and chosen.compare.seeds == [0]
    found = json.loads((tmp_path / "run-pilot" / "report" / "pilot.json").read_text())
    assert found["answer"] == "undecided" and "no verdict: 1 seed, " in found["why"]
    assert f"pilot: {found['answer']}\n" in text and "What would decide it: a higher price" in text
    records = json.loads((tmp_path / "run-pilot" / "report" / "comparison.json").read_text())
    assert len(records) == 4
    assert not (tmp_path / "run").exists()
    cli.main(command)  # from what is there
    assert capsys.readouterr().out.partition("\n\n")[2].endswith(text.partition("\n\n")[2])


def test_a_pilot_of_a_race_compares_its_candidates(priced):
    race = {"selector": "race", "race": RaceConfig(candidates=["random", "s2l", "longest"])}
    config = priced.config.model_copy(
        update={"selection": priced.config.selection.model_copy(update=race)}
    )
    racing = replace(priced, work=replace(priced.work, config=config))
    pilot = choose(racing, Limit(minutes=1e6))
    assert pilot.config.compare.selectors == ["s2l", "longest", "random_balanced", "random"]
    assert not pilot.config.races  # all held-out examples are for the verdict


def test_the_price_of_a_race_is_that_of_its_trainings(priced):
    race = {"selector": "race", "race": RaceConfig(candidates=["random", "s2l", "longest"])}
    config = priced.config.model_copy(
        update={"selection": priced.config.selection.model_copy(update=race), "target": None}
    )
    racing = replace(priced, work=replace(priced.work, config=config, target=None))
    corpus = Stage("corpus", lambda *_: [], settings=("unused",))
    prices = {
        stage.name: racing.price(Forecast(stage.name, TO_DO, stage.work.workers))
        for stage in stages_of(config, corpus)
    }
    trained = [price for name, price in prices.items() if name.startswith("race/targets/")]
    assert len(trained) == 3 * 3
    # As many epochs as the proxy's, over a tenth of the corpus each.
    share = sum(price.flops for price in trained) / prices["proxy"].flops
    assert share == pytest.approx(9 * 0.1, rel=0.1)
    # Nine models on half of the held-out examples.
    assert prices["race/result"].examples == priced.work.heldout // 2
    each = priced.work.proxy.tokens_each
    assert prices["race/result"].tokens == pytest.approx(9 * (priced.work.heldout // 2) * each)
    assert all(price.seconds > 0 for price in prices.values())
