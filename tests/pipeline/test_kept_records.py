"""What later commands keep: the report's comparison, run.json's stages, comparison.json."""

import json
import re

import pytest
from support.runs import corpus, rows, settings

import s2l_ray
from s2l_ray import commands
from s2l_ray.pipeline import comparison
from s2l_ray.pipeline.subset import select


def current(run_dir):
    return json.loads((run_dir / "run.json").read_text())["current"]


@pytest.mark.slow
def test_select_after_pipeline_keeps_the_comparison_in_the_report(local_ray, tmp_path):
    file, run_dir = tmp_path / "corpus.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(120)))
    small = {"selection__budget": 20, "target__epochs": 1, "evaluation__seeds": [0]}
    config = settings(run_dir, corpus__path=str(file), **small)
    commands.COMMANDS["pipeline"].work(config)
    page = run_dir / "report/index.html"
    before = page.read_text()
    sections = re.findall(r'<section id="(\w+)"', before)
    assert sections == ["why", "odds", "price", "next", "record"]
    odds = re.search(r'<section id="odds">.*?</section>', before, re.S)[0]
    assert len(re.findall(r">\d\.\d\d</td>", odds)) >= 2  # the selector's target and random's
    commands.COMMANDS["select"].work(config)
    after = page.read_text()
    assert re.findall(r'<section id="(\w+)"', after) == sections
    assert odds in after


@pytest.mark.slow
def test_run_json_keeps_the_stages_that_a_later_command_does_not_need(copy):
    before = current(copy)
    s2l_ray.select(corpus(), settings(copy, selection__selector="random"))
    after = current(copy)
    assert before.items() <= after.items() and "selections/random-seed0" in after
    # Of a stage that is made again with other settings, the new one counts.
    s2l_ray.select(corpus(), settings(copy, clusters__n_clusters=4))
    last = current(copy)
    assert {name for name in after if after[name] != last[name]} == {
        "clusters", "selections/s2l-seed0", "exports/s2l-seed0/alpaca",
    }  # fmt: skip


@pytest.mark.slow
def test_comparison_json_keeps_records_until_they_are_measured_again(copy, start):
    compare = {"selectors": ["random"], "match": ["examples"], "full": []}
    compare |= {"worth": [], "untuned": False}
    one = settings(copy, compare=compare | {"budgets": [20], "seeds": [42, 1]})
    other = settings(copy, compare=compare | {"budgets": [30], "seeds": [42]}, target__epochs=1)

    def run(config, done=lambda records: None):
        run = start(config)
        try:
            return comparison.compare(run, done, corpus())
        finally:
            run.lease.release()

    def kept():
        return json.loads((copy / "report/comparison.json").read_text())

    class Stopped(Exception):
        pass

    def stop(records):
        raise Stopped

    of_one, of_other = run(one), run(other)
    assert len(of_one) == 2 and len(of_other) == 1
    everything = kept()
    assert all(record in everything for record in of_one + of_other) and len(everything) == 3
    with pytest.raises(Stopped):  # after its first pair
        run(one, stop)
    assert sorted(kept(), key=str) == sorted(everything, key=str)


@pytest.mark.slow
def test_select_takes_the_dataset_that_it_is_given_in_a_run_that_has_tokens(copy, start):
    run = start(settings(copy))
    first = select(corpus(), run.config, run=run)
    others = rows(60, seed=9)
    second = select(corpus(others), run.config, run=run)
    given = {(row["instruction"], row["output"]) for row in others}
    chosen = second.dataset().take_all()
    assert {tuple(said["content"] for said in row["messages"]) for row in chosen} <= given
    assert select(corpus(), run.config, run=run).manifest == first.manifest
