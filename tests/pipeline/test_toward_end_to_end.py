"""Selection toward a purpose on a real run: what is scored, assigned, chosen, and made again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import corpus, rows, rows_of, settings, stages_run
from transformers import AutoModelForCausalLM

import s2l_ray
from s2l_ray.clustering.clusters import read_centers
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.evaluate import prepare_evaluation
from s2l_ray.report import gather
from s2l_ray.store.listing import list_files
from s2l_ray.training.checkpoints import checkpoints_of

PURPOSE = [
    "purpose/corpus", "purpose/examples", "purpose/tokens", "purpose/losses",
    "purpose/trajectories", "purpose/shares", "selections/toward-seed0",
]  # fmt: skip


def loss_of(model, row):
    """Of one example, by the model's own loss."""
    ids = torch.tensor([row["input_ids"]])
    labels = torch.where(torch.tensor([row["loss_mask"]]), ids, -100)
    with torch.no_grad():
        return model(input_ids=ids, labels=labels).loss.item()


def write(file, some):
    file.write_text("".join(json.dumps(row) + "\n" for row in some))
    return str(file)


@pytest.mark.slow
def test_a_selection_toward_a_purpose(finished, copy, start, tmp_path, caplog):
    new = [{"instruction": f"add {n} and 7", "output": f"it is {n + 7}"} for n in range(12)]
    file = write(tmp_path / "purpose.jsonl", [*new, *rows()[:2]])
    about = {"selection__export": [], "selection__toward": file, "selection__toward_steps": 4}
    config = settings(copy, selection__selector="toward", **about)
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    assert [name for name in stages_run(copy)[0]] == PURPOSE  # of the rest nothing is made again
    assert "selection.toward: left out 2 of 14 examples" in caplog.text

    store, done = run.store, run.done
    tokens = {row["example_id"]: row for row in rows_of(store, done["purpose/tokens"])}
    curves = {r["example_id"]: r["losses"] for r in rows_of(store, done["purpose/trajectories"])}
    assert len(tokens) == len(curves) == 12
    for place, folder in enumerate(checkpoints_of(done["proxy"]).values()):
        model = AutoModelForCausalLM.from_pretrained(Path(copy) / folder)
        for i, row in tokens.items():
            assert curves[i][place] == pytest.approx(loss_of(model, row), rel=2e-5)
    centers = read_centers(store, done["clusters"])
    nearest = [
        int(np.argmin([np.linalg.norm(np.array(curve) - center) for center in centers]))
        for curve in curves.values()
    ]
    counts = np.bincount(nearest, minlength=5).tolist()
    told = selection.info["toward"]
    assert told == {"share": 0.5, "examples": 12, "by_cluster": counts}
    page = Path(gather.write(run, selection)).read_text()
    assert "of the 12 examples of the purpose lie in" in page and "left out 2 of 14" in page
    run.lease.release()

    again = s2l_ray.select(corpus(), config)
    assert again.manifest == selection.manifest and not stages_run(copy)[0]
    s2l_ray.select(corpus(), settings(copy, selection__selector="toward",
                                      selection__toward_share=1.0, **about))  # fmt: skip
    assert stages_run(copy)[0] == PURPOSE[-1:]

    # What is evaluated on is not what is chosen for.
    heldout = write(tmp_path / "exam.jsonl", new[3:5])
    config = settings(copy, evaluation__files={"exam": heldout}, selection__selector="toward",
                      **about)  # fmt: skip
    run = start(config)
    pipeline.select(corpus(), config, run=run)
    with pytest.raises(ValueError, match=r"2 of 12 examples, such as .*evaluation\.files: exam"):
        prepare_evaluation(run)
    run.lease.release()

    config = settings(copy, selection__selector="toward_path", **about)
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    assert sorted(stages_run(copy)[0]) == sorted([
        "toward/proxy", "toward/losses", "toward/trajectories", "before", "rankings/toward_path",
        "selections/toward_path-seed0",
    ])  # fmt: skip
    checkpoints = checkpoints_of(run.done["toward/proxy"])
    assert list(checkpoints) == [2, 4]
    model = AutoModelForCausalLM.from_pretrained(Path(copy) / checkpoints[4])
    before = {row["example_id"]: row["loss"] for row in rows_of(store, run.done["before"])}
    found = {r["example_id"]: r["score"] for r in rows_of(store, run.done["rankings/toward_path"])}
    for row in rows_of(store, run.done["tokens"])[:20]:
        i = row["example_id"]
        assert found[i] == pytest.approx((loss_of(model, row) - before[i]) / before[i], abs=1e-5)
    chosen = selection.ids().tolist()
    assert [found[i] for i in chosen] == sorted(found.values())[:40]
    assert list_files(store).strays == []
