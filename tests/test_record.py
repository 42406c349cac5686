"""Losses recorded in the real Trainer and the real SFTTrainer, against scored ones."""

import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from support.models import VOCAB, random_tokens, small_model
from support.ranks import on_ranks
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from s2l_ray.models.documents import documents_of, keys_of, keys_of_rows
from s2l_ray.models.loss import LabelLoss
from s2l_ray.record import LossRecorder, LossWriter
from s2l_ray.scoring.scorer import score_table
from s2l_ray.store import Store

ROWS = 24


def labelled_tokens():
    tokens = random_tokens(ROWS)
    return tokens.filter(pa.compute.greater(tokens["num_label_tokens"], 0))


@pytest.fixture
def tokens():
    return labelled_tokens()


@pytest.fixture
def dataset(tokens):
    return dataset_of(tokens)


def dataset_of(tokens):
    rows = [
        {
            "input_ids": row["input_ids"],
            "labels": [
                token if keep and place else -100
                for place, (token, keep) in enumerate(
                    zip(row["input_ids"], row["loss_mask"], strict=True)
                )
            ],
            "example_id": row["example_id"],
        }
        for row in tokens.to_pylist()
    ]
    return Dataset.from_list(rows)


def pad_rows(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "labels": -100}
    batch = {
        name: torch.tensor([row[name] + [pad] * (longest - len(row[name])) for row in rows])
        for name, pad in fill.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


def arguments(folder, **more):
    return {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.0,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    } | more


def train(folder, dataset, recorder, model=None, resume=None, callbacks=(), **more):
    trainer = Trainer(
        model or small_model("llama"),
        TrainingArguments(**arguments(folder, **more)),
        train_dataset=dataset,
        data_collator=pad_rows,
        callbacks=[recorder, *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)


def recorded(folder, name="losses"):
    tables = [pa.ipc.open_file(path).read_all() for path in sorted((folder / name).iterdir())]
    return pa.concat_tables(tables)


def by_example(folder):
    """(example_id, point) -> loss."""
    rows = recorded(folder, "rows")
    ids = dict(zip(rows["key"].to_pylist(), rows["example_id"].to_pylist(), strict=True))
    found = {}
    for row in recorded(folder).to_pylist():
        found[ids[row["key"]], row["point"]] = row["loss"]
    return found


def expected(tokens, points, model=None):
    scored = score_table(tokens, LabelLoss(model or small_model("llama")))
    pairs = list(zip(scored["example_id"].to_pylist(), scored["loss"].to_pylist(), strict=True))
    return {(example, point): loss for example, loss in pairs for point in points}


def test_losses_of_training_equal_scored_ones(tmp_path, tokens, dataset):
    train(tmp_path, dataset, LossRecorder(str(tmp_path / "out"), dataset=dataset))
    assert by_example(tmp_path / "out") == pytest.approx(expected(tokens, [0, 1]), abs=1e-5)
    table = recorded(tmp_path / "out")
    counts = tokens["num_label_tokens"].to_pylist()
    assert sorted(table["num_label_tokens"].to_pylist()) == sorted(counts * 2)
    assert table["step"].to_pylist() == sorted(table["step"].to_pylist())


def record_in_s3(uri, folder, when):
    """One rank's work."""
    tokens = labelled_tokens()
    rows = dataset_of(tokens)
    recorder = LossRecorder(uri, when=when, dataset=rows)
    train(Path(folder), rows, recorder, save_strategy="epoch")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["training", "saves"])
def test_two_ranks_record_in_s3(s3_uri, tmp_path, tokens, when):
    on_ranks(record_in_s3, s3_uri, str(tmp_path), when)
    store = Store(s3_uri)
    names = store.names("losses")
    assert {name[:22] for name in names} == {"session-000-rank-00000", "session-000-rank-00001"}
    for folder in ("losses", "rows"):
        (tmp_path / folder).mkdir()
        for name in store.names(folder):
            (tmp_path / folder / name).write_bytes(store.objects.read(f"{folder}/{name}"))
    points = [0, 1] if when == "training" else sorted(set(recorded(tmp_path)["step"].to_pylist()))
    assert len(points) == 2
    assert by_example(tmp_path) == pytest.approx(expected(tokens, points), abs=1e-5)


def test_losses_at_saves_equal_scored_ones(tmp_path, tokens, dataset):
    recorder = LossRecorder(str(tmp_path / "out"), when="saves", dataset=dataset)
    train(tmp_path, dataset, recorder, save_strategy="steps", save_steps=5)
    table = recorded(tmp_path / "out")
    assert sorted(set(table["step"].to_pylist())) == [5, 10]
    scored = score_table(tokens, LabelLoss(small_model("llama")))
    for step in (5, 10):
        at = table.filter(pa.compute.equal(table["step"], step))
        assert sorted(at["loss"].to_pylist()) == pytest.approx(
            sorted(scored["loss"].to_pylist()), abs=1e-5
        )


def test_a_killed_training_leaves_each_loss_once_per_session(tmp_path, tokens, dataset):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    out = str(tmp_path / "out")
    options = {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        recorder = LossRecorder(out, dataset=dataset)
        train(tmp_path, dataset, recorder, callbacks=[Stop()], **options)
    assert max(recorded(tmp_path / "out")["step"].to_pylist()) == 5  # flushed before step 6's save
    train(tmp_path, dataset, LossRecorder(out, dataset=dataset), resume=True, **options)
    assert by_example(tmp_path / "out") == pytest.approx(expected(tokens, [0, 1]), abs=1e-5)


@pytest.mark.parametrize(
    ("packing", "lora", "when"),
    [
        pytest.param(False, False, "training", marks=pytest.mark.slow),
        pytest.param(True, False, "training", marks=pytest.mark.slow),
        (True, True, "training"),
        pytest.param(True, True, "saves", marks=pytest.mark.slow),
    ],
)
def test_losses_in_sft_trainer(tmp_path, tokens, dataset, packing, lora, when):
    from peft import LoraConfig

    config = SFTConfig(
        **arguments(tmp_path, save_strategy="epoch" if when == "saves" else "no"),
        max_length=64,
        packing=packing,
        padding_free=packing,
        bf16=False,
        gradient_checkpointing=False,
    )
    model = small_model("llama")
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=dataset,
        processing_class=tokenizer_of(tmp_path),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if lora else None,
        callbacks=[LossRecorder(str(tmp_path / "out"), when=when, dataset=dataset)],
    )
    trainer.train()
    found = by_example(tmp_path / "out")
    assert len({point for _, point in found}) == 2
    points = sorted({point for _, point in found})
    assert found == pytest.approx(expected(tokens, points), abs=1e-4)


def tokenizer_of(folder):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"t{number}": number for number in range(VOCAB)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "t0")), pad_token="t0", eos_token="t1"
    )


def test_packed_batches_and_rows_have_the_same_keys(tokens):
    rows = [np.array(ids) for ids in tokens["input_ids"].to_pylist()]
    offsets = np.cumsum([0, *map(len, rows)])
    keys = keys_of_rows(np.concatenate(rows), offsets).tolist()
    assert len(set(keys)) == len({tuple(row) for row in rows})
    packed = torch.tensor(np.concatenate(rows))[None]
    positions = torch.tensor(np.concatenate([np.arange(len(row)) for row in rows]))[None]
    assert keys_of(packed, documents_of(packed, None, positions)).tolist() == keys
    for side in ("left", "right"):
        longest = max(map(len, rows))
        ids, mask = np.full((len(rows), longest), 7), np.zeros((len(rows), longest), int)
        for place, row in enumerate(rows):
            span = slice(0, len(row)) if side == "right" else slice(longest - len(row), None)
            ids[place, span], mask[place, span] = row, 1
        batch = torch.tensor(ids)
        assert keys_of(batch, documents_of(batch, torch.tensor(mask), None)).tolist() == keys


def test_keys_are_the_documented_hash():
    """Part of the format of recorded losses, so it never changes."""
    factors = np.random.PCG64(20240315).random_raw(3).tolist()

    def mixed(token):
        mixed = (token + 1) * -7046029254386353131 % 2**64
        signed = mixed - 2**64 if mixed >= 2**63 else mixed
        return (mixed ^ (signed >> 29) % 2**64) * -4658895280553007687 % 2**64

    total = sum(mixed(token) * (f | 1) for token, f in zip([5, 6, 7], factors, strict=True))
    expected = (total + 2**63) % 2**64 - 2**63
    assert keys_of_rows(np.array([5, 6, 7]), np.array([0, 3])).tolist() == [expected]


def test_a_fused_loss_is_refused(tmp_path, dataset):
    model = small_model("llama")
    forward = model.forward

    @functools.wraps(forward)  # the trainer reads its signature
    def fused(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        outputs.logits = None
        return outputs

    model.forward = fused
    with pytest.raises(ValueError, match="turn that off, or record with when='saves'"):
        train(tmp_path, dataset, LossRecorder(str(tmp_path / "out")), model=model)


def test_a_loop_of_ones_own(tmp_path):
    writer = LossWriter(str(tmp_path))
    writer.add(0, [4, 2], [1.5, 2.5])
    writer.add(1, [7], [0.5], point=1, num_label_tokens=[3])
    with pytest.raises(ValueError, match="losses: found 1, expected 2"):
        writer.add(2, [4, 2], [1.5])
    writer.flush()
    writer.flush()
    assert LossWriter(str(tmp_path)).session == 1
    assert recorded(tmp_path).to_pylist() == [
        {"key": 4, "point": 0, "step": 0, "loss": 1.5, "num_label_tokens": 0},
        {"key": 2, "point": 0, "step": 0, "loss": 2.5, "num_label_tokens": 0},
        {"key": 7, "point": 1, "step": 1, "loss": 0.5, "num_label_tokens": 3},
    ]
