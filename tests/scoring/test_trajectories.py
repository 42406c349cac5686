"""Scoring against Hugging Face's own loss, one example at a time; restarts; any number of actors.

N examples, T checkpoints.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.models import SHAPES, random_tokens, small_model

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.execution.parts import make_parts
from s2l_ray.models import held
from s2l_ray.models.loss import LabelLoss
from s2l_ray.scoring import scorer
from s2l_ray.scoring.losses import Scoring, actors_of, make_scorer, score
from s2l_ray.scoring.scorer import Scorer, score_table
from s2l_ray.scoring.trajectories import assemble, losses_array, sampled
from s2l_ray.store import Part
from s2l_ray.store.checksums import checksum_of_folder
from s2l_ray.store.schemas import EXAMPLES
from s2l_ray.training.checkpoints import checksums_of_checkpoints


def naive_losses(tokens, model):
    """example_id -> loss: batches of one, no padding, the model's own loss."""
    found = {}
    for row in tokens.to_pylist():
        if any(row["loss_mask"]):
            ids = torch.tensor([row["input_ids"]])
            labels = torch.where(torch.tensor([row["loss_mask"]]), ids, -100)
            with torch.no_grad():
                found[row["example_id"]] = model(input_ids=ids, labels=labels).loss.item()
    return found


def assert_same_losses(table, expected):
    assert table["example_id"].to_pylist() == list(expected)  # in order, none without labels
    for found, loss in zip(table["loss"].to_pylist(), expected.values(), strict=True):
        assert abs(found - loss) <= 1e-5 * max(1, loss)


@pytest.mark.parametrize("kind", SHAPES)
def test_losses_are_those_of_a_naive_loop_whatever_the_batches(kind):
    tokens, model = random_tokens(25), small_model(kind)
    expected = naive_losses(tokens, model)
    assert len(expected) == 20
    assert max(expected.values()) - min(expected.values()) > 0.2
    loss = LabelLoss(model)
    assert loss.head_apart == (kind in ("gpt_neox", "llama", "phi"))
    for tokens_per_batch in (1, 64, 1 << 20):
        table = score_table(tokens, loss, tokens_per_batch=tokens_per_batch)
        assert_same_losses(table, expected)
        labels = [sum(row["loss_mask"]) for row in tokens.to_pylist() if any(row["loss_mask"])]
        assert table["num_label_tokens"].to_pylist() == labels


def test_batches_hold_at_most_so_many_padded_tokens():
    tokens, loss = random_tokens(40), LabelLoss(small_model("llama"))
    seen = []
    loss.model.base_model.register_forward_pre_hook(
        lambda _, args, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    score_table(tokens, loss, tokens_per_batch=64)
    assert all(rows * length <= 64 or rows == 1 for rows, length in seen)
    assert [length for _, length in seen] == sorted((n for _, n in seen), reverse=True)
    assert max(rows for rows, _ in seen) > 4
    assert sum(rows for rows, _ in seen) == 32


def test_no_example_with_labels_gives_an_empty_table():
    table = score_table(random_tokens(5)[4:], LabelLoss(small_model("llama")))
    assert table.num_rows == 0
    assert table.schema.names == ["example_id", "loss", "num_label_tokens"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_example_and_the_checkpoint(store, value):
    tokens = random_tokens(12, first_id=7000)
    model = small_model("gpt_neox")
    bad = tokens["input_ids"][2].as_py()[0]  # a token of example 7002
    with torch.no_grad():
        model.get_input_embeddings().weight[bad] = value
    hit = [
        row["example_id"]
        for row in tokens.to_pylist()
        if bad in row["input_ids"][:-1] and any(row["loss_mask"])
    ]
    with pytest.raises(ValueError, match=rf"example_id {hit[0]}: the loss is (nan|inf)"):
        score_table(tokens, LabelLoss(model))
    model.save_pretrained(store.address("proxy/checkpoint-000003"))
    part = store.write_part(tokens, "tokens", "part-00000")
    unit = {
        "unit": "x",
        "tokens": "tokens",
        "model": "proxy/checkpoint-000003",
        "part": part,
    }
    with pytest.raises(ValueError, match=f"checkpoint-000003, part-00000.*example_id {hit[0]}"):
        Scorer(store, TrajectoriesConfig())(unit)


def test_a_gpu_without_memory_is_told_with_what_to_do(store, monkeypatch):
    def score(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(scorer, "score_labelled", score)
    small_model("gpt_neox").save_pretrained(store.address("proxy/checkpoint-000003"))
    part = store.write_part(random_tokens(12), "tokens", "part-00000")
    unit = {"tokens": "tokens", "model": "proxy/checkpoint-000003", "part": part}
    wanted = r"000003: .* batches of 512 tokens \(CUDA .* GiB\); lower .*tokens_per_batch"
    with pytest.raises(ValueError, match=wanted):
        Scorer(store, TrajectoriesConfig(tokens_per_batch=512))(unit)


def test_a_gpu_that_the_weights_alone_fill_is_told(store, monkeypatch):
    def load(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    small_model("gpt_neox").save_pretrained(store.address("proxy/checkpoint-000003"))
    monkeypatch.setattr(held, "load_model", load)
    part = store.write_part(random_tokens(12), "tokens", "part-00000")
    unit = {"tokens": "tokens", "model": "proxy/checkpoint-000003", "part": part}
    with pytest.raises(
        ValueError, match=r"000003: out of GPU memory while loading the weights \(.*bfloat16"
    ):
        Scorer(store, TrajectoriesConfig())(unit)


@pytest.mark.parametrize("room", [1 << 30, 0])
def test_an_actor_reads_a_part_once_where_memory_allows(store, monkeypatch, room):
    monkeypatch.setattr(scorer, "CACHED_BYTES", room)
    part = store.write_part(random_tokens(12), "tokens", "part-00000")
    models = {step: small_model("gpt_neox", seed=step) for step in (1, 2)}
    for step, model in models.items():
        model.save_pretrained(store.address(f"proxy/{step}"))
    reads, read = [], store.read_part
    monkeypatch.setattr(store, "read_part", lambda *args: reads.append(args) or read(*args))
    work = Scorer(store, TrajectoriesConfig())
    for step, model in models.items():
        unit = {"unit": "x", "tokens": "tokens", "model": f"proxy/{step}", "part": part}
        table, _ = work(unit)
        assert_same_losses(table, naive_losses(random_tokens(12), model))
    assert len(reads) == (1 if room else 2)


def contents(folder):
    """file below the folder -> its bytes and when it was written; manifests left out."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*.arrow"))
    }


def only_bytes(found):
    return {name: data for name, (data, _) in found.items()}


def test_score_and_assemble_on_ray(local_ray, store):
    tables = [random_tokens(count, seed=i, first_id=100 * i) for i, count in enumerate((12, 3, 9))]
    tables.append(random_tokens(5, first_id=300)[4:])  # a part without any label
    tokens = store.commit(
        "tokens",
        "t",
        [store.write_part(t, "tokens", f"part-{i}") for i, t in enumerate(tables)],
        {},
    )
    corpus_parts = []
    for number, table in enumerate(tables):
        rows = [
            {"example_id": i, "source": f"source-{i % 3}", "turns": [], "file": "f", "row": 1}
            for i in table["example_id"].to_pylist()
        ]
        corpus_table = pa.Table.from_pylist(rows, schema=EXAMPLES)
        corpus_parts.append(
            store.write_part(corpus_table, "corpus", f"part-{number}", suffix="parquet")
        )
    corpus = store.commit("corpus", "c", corpus_parts, {})
    checkpoints, models = {}, {}
    for step in (1000, 20, 3):  # their order by number is not that by name of unpadded steps
        models[step] = small_model("gpt_neox", seed=step)
        checkpoints[step] = f"proxy/checkpoint-{step:06d}"
        models[step].save_pretrained(store.address(checkpoints[step]))

    def run(folder, actors):
        config = TrajectoriesConfig(tokens_per_batch=64, workers={"num_workers": actors})
        [losses] = score(store, [Scoring(tokens, checkpoints, folder, "l")], config)
        return losses

    losses = run("losses", 2)
    assert losses.info["steps"] == [3, 20, 1000]
    for step, model in models.items():
        for number, table in enumerate(tables):
            unit = f"step-{step:06d}/part-{number}"
            part = next(p for p in losses.parts if p.unit == unit)
            found = store.read_part("losses", part)
            assert_same_losses(found, naive_losses(table, model))
            assert found.equals(
                score_table(table, LabelLoss(model), tokens_per_batch=64).cast(found.schema)
            )

    # Restart: one unit deleted, one cut off in the middle; the others stay as they are.
    before = contents(store.address("losses"))
    assert len(before) == 12
    gone, cut = sorted(before)[1], sorted(before)[6]
    os.unlink(store.address("losses", "manifest.json"))
    os.unlink(store.address("losses", gone))
    Path(store.address("losses", cut)).write_bytes(before[cut][0][:-20])
    again = run("losses", 1)
    after = contents(store.address("losses"))
    assert only_bytes(after) == only_bytes(before)
    assert {name for name in after if after[name] != before[name]} == {gone, cut}
    assert again == losses

    # From scratch with one actor: the same bytes.
    run("losses-one", 1)
    assert only_bytes(contents(store.address("losses-one"))) == only_bytes(before)

    trajectories = assemble(store, corpus, losses, folder="trajectories", fingerprint="x")
    assert [part.unit for part in trajectories.parts] == [part.unit for part in corpus.parts]
    assert trajectories.parts[3].rows == 0
    for part, table in zip(trajectories.parts[:3], tables, strict=False):
        found = store.read_part("trajectories", part)
        expected = [naive_losses(table, models[step]) for step in (3, 20, 1000)]
        ids = found["example_id"].to_pylist()
        assert ids == list(expected[0])
        assert found["source"].to_pylist() == [f"source-{i % 3}" for i in ids]
        losses_NT = losses_array(found)
        expected_NT = np.array([[losses[i] for losses in expected] for i in ids])
        np.testing.assert_allclose(losses_NT, expected_NT, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_losses_are_taken_from_details_of_the_same_weights(local_ray, store):
    """The folder of a checkpoint that is scored already is not even there."""
    tables = [random_tokens(12, seed=i, first_id=100 * i) for i in range(2)]
    parts = [store.write_part(t, "tokens", f"part-{i}") for i, t in enumerate(tables)]
    tokens = store.commit("tokens", "t", parts, {})
    checkpoints, checksums = {}, {}
    for step in (10, 20):
        checkpoints[step] = f"proxy/checkpoint-{step:06d}"
        small_model("gpt_neox", seed=step).save_pretrained(store.address(checkpoints[step]))
        checksums[step] = checksum_of_folder(store.address(checkpoints[step]))
    config = TrajectoriesConfig(workers={"num_workers": 1})
    scorings = [
        Scoring(tokens, {step: checkpoints[step]}, folder, "d", checksums, signals=("confidence",))
        for step, folder in ((10, "details/early"), (20, "details/final"))
    ]
    early, final = score(store, scorings, config)
    [alone] = score(store, [Scoring(tokens, checkpoints, "alone", "l", checksums)], config)
    again = dataclasses.replace(scorings[0], folder="details/again")
    assert score(store, [again], config)[0].parts == early.parts  # whenever they are made
    assert "confidence" in store.read_part(early.folder, early.parts[0]).column_names

    shutil.rmtree(store.address(checkpoints[10]))
    known = {10: early, 20: final}
    scoring = Scoring(tokens, checkpoints, "taken", "l", checksums, known=known)
    [taken] = score(store, [scoring], config)
    assert taken.parts == alone.parts  # the same bytes, made_of and all

    # Details of other weights are not taken.
    small_model("gpt_neox", seed=3).save_pretrained(store.address(checkpoints[20]))
    checksums = checksums | {20: checksum_of_folder(store.address(checkpoints[20]))}
    scoring = Scoring(tokens, checkpoints, "other", "l", checksums, known=known)
    [other] = score(store, [scoring], config)
    assert other.parts[:2] == alone.parts[:2]
    for part, table in zip(other.parts[2:], tables, strict=True):
        expected = naive_losses(table, small_model("gpt_neox", seed=3))
        assert_same_losses(store.read_part("other", part), expected)


@pytest.mark.slow
def test_losses_made_ahead_of_other_weights_are_not_taken(local_ray, store):
    """As where a damaged training went back some steps after they were made."""
    part = store.write_part(random_tokens(12), "tokens", "part-00000")
    tokens = store.commit("tokens", "t", [part], {})
    checkpoints = {step: f"proxy/checkpoint-{step:06d}" for step in (1, 2)}
    for step, folder in checkpoints.items():
        small_model("gpt_neox", seed=step).save_pretrained(store.address(folder))
    ahead = Scoring(tokens, checkpoints, "losses", "l")
    config = TrajectoriesConfig(workers={"num_workers": 1})
    actors = actors_of(config)
    make_parts(store, [ahead.stage()], make_scorer, (store, config), label="ahead", actors=actors)
    before = contents(store.address("losses"))
    assert len(before) == 2

    models = {1: small_model("gpt_neox", seed=1), 2: small_model("gpt_neox", seed=3)}
    models[2].save_pretrained(store.address(checkpoints[2]))  # the same name and size
    files = []
    for folder in checkpoints.values():
        for file in store.upload(store.address(folder), folder):
            name = f"{folder.removeprefix('proxy/')}/{file.file}"
            files.append(dataclasses.replace(file, unit=name, file=name))
    proxy = store.commit("proxy", "p", files, {"checkpoints": [1, 2]})
    checksums = checksums_of_checkpoints(proxy)
    [losses] = score(store, [dataclasses.replace(ahead, checksums=checksums)], config)
    for part, model in zip(losses.parts, models.values(), strict=True):
        assert_same_losses(store.read_part("losses", part), naive_losses(random_tokens(12), model))
    after = contents(store.address("losses"))
    assert len(after) == 3 and before.items() <= after.items()  # the first was right, and stays


@pytest.mark.parametrize(
    ("wanted", "parts"), [(1, 2), (3, 2), (4, 3), (7, 3), (8, 4), (9, 4), (100, 4)]
)
def test_a_sample_is_of_whole_parts_in_their_order(wanted, parts):
    have = [Part(f"part-{n}", f"{n}.arrow", rows, 0, "") for n, rows in enumerate((0, 3, 4, 2))]
    assert sampled(have, wanted) == have[:parts]
