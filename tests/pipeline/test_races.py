"""A race between selectors: what it is declared as, and on real runs who wins."""

import json
import sys

import numpy as np
import pytest
import ray
from support.runs import ids_of, plan_of, rows_of, settings, stages_run

import s2l_ray
from s2l_ray.errors import ConfigError
from s2l_ray.execution import connect
from s2l_ray.pipeline import evaluate, preflight, target_stages
from s2l_ray.pipeline.agenda import agenda
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.stage import Stage, walk
from s2l_ray.pipeline.subset import prepare
from s2l_ray.store import Store
from s2l_ray.store.listing import list_files

CANDIDATES = ["random", "s2l", "longest"]
SHORTEST = """
from s2l_ray.selection.kinds import Rank

class Shortest(Rank):
    rule = "fewest response tokens"

    def score(self, known):
        return known.num_label_tokens_N.astype(float)
"""


def racing(run_dir, candidates=CANDIDATES, **changes):
    race = {"candidates": candidates}
    return settings(
        run_dir, selection__selector="race", selection__export=[], selection__race=race, **changes
    )


def names(config):
    stages = walk([plan_of(config).selection(config.selection)])
    return [stage.name for stage in stages]


def test_all_subsets_come_before_the_trainings_and_these_before_the_result():
    found = names(racing("run"))
    before = [f"race/tokens/{name}-seed0" for name in CANDIDATES]
    trained = [f"race/targets/{name}-seed0-train{n}" for name in CANDIDATES for n in range(3)]
    assert [name for name in found if name.startswith("race/tokens")] == before
    assert found[-11:] == [*trained, "race/result", "selections/race-seed0"]
    assert names(racing("run", selection__seed=4))[-1] == "selections/race-seed4"


def test_what_changes_a_race_and_what_does_not(tmp_path):
    def known(config):
        stages = walk([plan_of(config).selection(config.selection)])
        return {stage.name: stage.fingerprint for stage in stages}

    base, result = known(racing("run")), "race/result"
    assert base == known(racing("elsewhere", evaluation__targets_at_once=3))
    for changes in ({"compare__primary": "macro"}, {"evaluation__answer_marker": "is"}):
        other = known(racing("run", **changes))
        assert {name for name in base if base[name] != other[name]} == {
            result, "selections/race-seed0"
        }  # fmt: skip
    # More candidates: those that have been trained are found.
    more = known(racing("run", [*CANDIDATES, "random_balanced"]))
    same = [name for name in base if name not in (result, "selections/race-seed0")]
    assert {name: more[name] for name in same} == {name: base[name] for name in same}
    assert more[result] != base[result]
    exam = tmp_path / "exam.jsonl"
    marks = set()
    for content in ("a", "b"):
        exam.write_text(json.dumps({"instruction": content, "output": content}) + "\n")
        marks.add(known(racing("run", evaluation__files={"exam": str(exam)}))[result])
    assert len(marks) == 2


def test_a_race_of_the_target_trains_the_target():
    config = settings(
        "run", selection__selector="race",
        selection__race={"candidates": ["random", "s2l"], "model": "target", "seeds": [7, 8]},
    )  # fmt: skip
    stages = {stage.name: stage for stage in walk([plan_of(config).selection(config.selection)])}
    training = stages["race/targets/s2l-seed0-train8"]
    assert training.settings[-1] == 8 and training.settings[0]["epochs"] == 2
    assert training.settings[0]["model"]["architecture"]["model_type"] == "llama"
    own = racing("run")
    stages = {stage.name: stage for stage in walk([plan_of(own).selection(own.selection)])}
    settings_of_own = stages["race/targets/s2l-seed0-train0"].settings[0]
    # The proxy, trained for as long as the target.
    assert settings_of_own["model"]["architecture"]["model_type"] == "gpt_neox"
    assert settings_of_own["epochs"] == 2 and settings_of_own["num_checkpoints"] is None


def test_the_agenda_has_the_race_and_its_evaluations():
    config = racing("run", evaluation__answer_marker="is")
    plan = Plan(config, Stage("corpus", lambda *_: [], settings=("unused",)))
    items = {item.name: item for item in agenda(config, plan, "select")}
    assert items["race/evaluations"].count == 3 * 3 * 2
    assert [*items].index("race/evaluations") == [*items].index("race/result") - 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"selection__race": {"candidates": ["s2l", "longest"]}}, "expected random among them"),
        (
            {"selection__race": {"candidates": ["random", "race"]}},
            "cannot be a candidate of itself",
        ),
        ({"selection__race": {"candidates": ["random"]}}, r"selection\.race\.candidates"),
        ({"selection__race": {"seeds": [3]}}, r"selection\.race\.seeds"),
        ({"selection__like": "race"}, "race itself copies another"),
        ({"corpus__heldout_share": 0.0}, r"there are none: set\s+corpus\.heldout_share"),
        ({"corpus__grow": True}, r"corpus\.grow: found true with selector race"),
        ({"target": None, "selection__race": {"model": "target"}}, "found no target"),
    ],
)
def test_settings_that_cannot_race_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        settings("run", **({"selection__selector": "race"} | changes))


def test_candidates_are_checked_like_the_selector_itself(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"instruction": "a", "output": "b"}\n')
    config = racing(tmp_path / "run", ["random", "toward"], corpus__path=str(corpus))
    with pytest.raises(ValueError, match=r"selection\.toward"):
        preflight.check(config)
    gone = {"exam": str(tmp_path / "gone.jsonl")}
    config = racing(tmp_path / "run", corpus__path=str(corpus), evaluation__files=gone)
    with pytest.raises(ValueError, match=r"evaluation\.files: exam: .*gone\.jsonl"):
        preflight.check(config)
    (tmp_path / "losses.npy").write_bytes(b"")
    given = {"path": str(tmp_path / "losses.npy")}
    config = racing(tmp_path / "run", ["random", "cross_fitted"], corpus__path=str(corpus),
                    losses=given)  # fmt: skip
    with pytest.raises(ValueError, match="selector cross_fitted trains two proxies"):
        preflight.check(config)


# ---- on real runs: good answers are long and alike, garbage is short and random


def planted(count=320):
    random, found = np.random.default_rng(0), []
    for number in range(count):
        if number % 2:
            output = " ".join(["yes", "no"] * 6)
        else:
            output = " ".join(chr(97 + random.integers(26)) * 2 for _ in range(3))
        found.append({"instruction": f"question {number}", "output": output, "source": "all"})
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The corpus; an exam of good answers alone; and a selector that takes the garbage."""
    folder = tmp_path_factory.mktemp("race")
    good = [row | {"instruction": f"exam {n}"} for n, row in enumerate(planted(160)) if n % 2]
    for name, items in (("corpus", planted()), ("exam", good)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    (folder / "own_garbage.py").write_text(SHORTEST)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def planted_race(files, run_dir, candidates):
    exam = {"exam": str(files / "exam.jsonl")}
    return racing(
        run_dir, candidates, corpus__path=str(files / "corpus.jsonl"), corpus__heldout_share=0.0,
        evaluation__files=exam, target__epochs=4, evaluation__targets_at_once=2,
    )  # fmt: skip


@pytest.mark.slow
def test_a_race_from_interruption_to_winner_and_one_that_random_wins(
    local_ray, files, tmp_path, start, monkeypatch, caplog
):
    config = planted_race(files, tmp_path / "run", ["random", "longest"])
    trained, train = [], target_stages.train_on

    def train_some(run, tokens, training, **where):
        if len(trained) == 3:
            raise OSError("the machine is gone")
        trained.append(where["label"])
        return train(run, tokens, training, **where)

    caplog.set_level("INFO")
    # As on a Ray of the run's own: trainings run in tasks.
    monkeypatch.setattr(connect, "_started", [ray.get_runtime_context().get_node_id()])
    with monkeypatch.context() as patched:
        patched.setattr("s2l_ray.pipeline.race.train_on", train_some)
        with pytest.raises(OSError, match="the machine is gone"):
            s2l_ray.select(None, config)
    selection = s2l_ray.select(None, config)
    made, found = stages_run(tmp_path / "run")
    assert {f"race/targets/{name}" for name in trained} <= {*found} and len(trained) == 3
    assert len([name for name in made if name.startswith("race/targets")]) == 3

    race = selection.info["race"]
    assert race["winner"] == "longest" and selection.info["selector"] == "race"
    assert "race: longest won (longest − random: −" in caplog.text
    assert race["measure"] == "files/exam" and race["examples"] < 80
    by_name = {entry["candidate"]: entry for entry in race["candidates"]}
    assert by_name["longest"]["high"] < 0 and by_name["longest"]["p"] < 0.05
    assert np.mean(by_name["longest"]["values"]) == pytest.approx(by_name["longest"]["mean"])
    on_disk = json.loads(next((tmp_path / "run/selections/race-seed0").glob("*/selection.json"))
                         .read_text())  # fmt: skip
    assert on_disk["race"] == race
    store = Store(tmp_path / "run")
    [theirs] = (tmp_path / "run/selections/longest-seed0").iterdir()
    theirs = store.manifest(f"selections/longest-seed0/{theirs.name}")
    mine, theirs = rows_of(store, selection.manifest), rows_of(store, theirs)
    assert [row | {"reason": f"longest: {row['reason']}"} for row in theirs] == mine
    assert mine[0]["reason"] == "longest: place 1"

    # Found again; nothing is strange in the run directory.
    assert s2l_ray.select(None, config).manifest == selection.manifest
    assert not stages_run(tmp_path / "run")[0]
    assert list_files(store).strays == []

    # What measures targets is the other half of the exam.
    run = start(config)
    prepare(run)
    decided = ids_of(store, run.done["halves/0/exam"])
    measured = ids_of(store, evaluate.heldout_of(run)["exam"])
    assert {*decided}.isdisjoint(measured) and len(decided) + len(measured) == 80
    assert len(decided) == race["examples"]
    run.lease.release()

    # The garbage loses; and what chooses the same examples as random cannot win.
    others = ["random", "random_balanced", "own_garbage:Shortest"]
    selection = s2l_ray.select(None, planted_race(files, tmp_path / "run", others))
    race = selection.info["race"]
    assert race["winner"] == "random" and "race: random is kept, no candidate" in caplog.text
    by_name = {entry["candidate"]: entry for entry in race["candidates"]}
    assert by_name["random_balanced"]["difference"] == 0 and not by_name["random_balanced"]["p"]
    assert by_name["own_garbage:Shortest"]["low"] > 0
    assert selection.info["by_source"] == {"all": 40}
    made, _ = stages_run(tmp_path / "run")
    assert not [name for name in made if name.startswith("race/targets/random-seed0")]
