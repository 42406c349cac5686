"""Losses computed elsewhere select what the same losses of the run's own proxy select."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from support.head import command
from support.runs import corpus, ids_of, rows, settings

import s2l_ray
from s2l_ray.config import LossesConfig, StorageConfig
from s2l_ray.models.documents import keys_of_rows
from s2l_ray.pipeline import preflight
from s2l_ray.record import LossWriter
from s2l_ray.scoring.imported import part_numbers
from s2l_ray.scoring.loss_files import LossFile, find, key_of, read, rows_of
from s2l_ray.store import Store


@pytest.fixture(scope="module")
def known(finished):
    """The examples of the finished run that have losses: ids, losses [N, T], and the ids chosen."""
    folder, selection = finished
    store = Store(folder)
    current = store.read_json("run.json")["current"]
    trajectories = store.manifest(current["trajectories"])
    table = pa.concat_tables(store.read_part(trajectories.folder, p) for p in trajectories.parts)
    return (
        table["example_id"].to_numpy(),
        np.array(table["losses"].to_pylist(), np.float32),
        sorted(ids_of(selection.store, selection.manifest)),
    )


def stage(finished, name):
    store = Store(finished[0])
    manifest = store.manifest(store.read_json("run.json")["current"][name])
    return pa.concat_tables(store.read_part(manifest.folder, part) for part in manifest.parts)


def keys_by_id(finished):
    tokens = stage(finished, "tokens").combine_chunks()
    lists = tokens["input_ids"].chunk(0)
    keys = keys_of_rows(lists.flatten().to_numpy(), lists.offsets.to_numpy())
    return dict(zip(tokens["example_id"].to_pylist(), keys.tolist(), strict=True))


def chosen(run_dir, path, dataset=None, **changes):
    config = settings(run_dir, losses={"path": str(path)}, **changes)
    selection = s2l_ray.select(dataset, config)
    return sorted(ids_of(selection.store, selection.manifest))


@pytest.mark.slow
def test_by_example_id(known, tmp_path):
    ids, losses_NT, expected = known
    order = np.random.default_rng(0).permutation(len(ids))
    table = pa.table({"example_id": ids[order], "losses": [*losses_NT[order]]})
    for number, half in enumerate((table.slice(0, 100), table.slice(100))):
        pa.parquet.write_table(half, tmp_path / f"{number}.parquet")
    (tmp_path / "losses").mkdir()
    for number in (0, 1):
        (tmp_path / f"{number}.parquet").rename(tmp_path / "losses" / f"{number}.parquet")
    assert chosen(tmp_path / "run", tmp_path / "losses", corpus()) == expected


def test_by_row_of_a_file(finished, known, tmp_path):
    ids, losses_NT, expected = known
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    place = {row["instruction"]: number for number, row in enumerate(rows())}
    examples = stage(finished, "corpus")
    row_of = {
        example: place[turns[0]["text"]]
        for example, turns in zip(
            examples["example_id"].to_pylist(), examples["turns"].to_pylist(), strict=True
        )
    }
    for number, column in enumerate(losses_NT.T):
        values = np.full(len(rows()), np.nan, np.float32)  # as for rows without a response
        values[[row_of[example] for example in ids.tolist()]] = column
        folder = tmp_path / "official" / f"checkpoint-{500 * (number + 1)}"
        folder.mkdir(parents=True)
        torch.save([float(value) for value in values], folder / "losses.pt")
    found = chosen(tmp_path / "run", tmp_path / "official", corpus__path=str(path))
    assert found == expected
    [losses] = (tmp_path / "run" / "losses").iterdir()
    assert json.loads((losses / "manifest.json").read_text())["info"]["steps"] == [500, 1000, 1500]


def test_by_tokens_of_a_recorder(finished, known, tmp_path, said):
    ids, losses_NT, expected = known
    key_of_id = keys_by_id(finished)
    mine = np.array([key_of_id[example] for example in ids.tolist()])
    out = tmp_path / "recorded"
    # A training that was killed in its third epoch, and started again from the second.
    first = LossWriter(str(out), session=0)
    first.add(0, mine, losses_NT[:, 0], point=0)
    first.add(10, mine[:50], losses_NT[:50, 1] + 7, point=1)
    first.add(10, [12345], [1.0], point=1)  # of an example that the corpus does not have
    first.flush()
    for rank in (0, 1):
        second = LossWriter(str(out), rank=rank, session=1)
        for point in (1, 2):
            second.add(10 * point, mine[rank::2], losses_NT[rank::2, point], point=point)
        second.add(30, mine[:9], losses_NT[:9, 2], point=3)
        second.flush()
    said()
    assert chosen(tmp_path / "run", out, corpus()) == expected
    text = said()
    assert "point 3: 18 losses only; it is left out" in text
    assert (
        "0 of 210 examples have no loss at each of 3 points; losses of no example: 1 (joined by t"
        in text
    )


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["s2l", "el2n"])  # el2n needs more than losses
def test_checkpoints_that_exist_are_scored_instead_of_training(copy, tmp_path, selector):
    def select(run_dir, **changes):
        selection = s2l_ray.select(
            corpus(), settings(run_dir, selection__selector=selector, **changes)
        )
        return sorted(ids_of(selection.store, selection.manifest))

    proxy = Store(copy).read_json("run.json")["current"]["proxy"]
    folders = sorted(str(path) for path in (copy / proxy).glob("checkpoint-*"))
    assert select(tmp_path / "run", proxy__checkpoints=folders) == select(copy)
    assert not [*(tmp_path / "run").glob("proxy/*/checkpoint-*")]


@pytest.mark.slow
def test_losses_corpus_and_run_in_s3(finished, known, tmp_path, s3_uri):
    ids, losses_NT, expected = known
    key_of_id = keys_by_id(finished)
    writer = LossWriter(f"{s3_uri}/losses")
    for point, losses_N in enumerate(losses_NT.T):
        keys = [key_of_id[example] for example in ids.tolist()]
        writer.add(10 * point, keys, losses_N, point=point)
    writer.flush()
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    Store(s3_uri).objects.write("corpus.jsonl", lines.encode())
    changes = {"losses": {"path": f"{s3_uri}/losses"}, "corpus__path": f"{s3_uri}/corpus.jsonl"}
    config = settings(f"{s3_uri}/run", **changes)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    done = command("select", file)
    assert done.returncode == 0, done.stderr
    store = Store(f"{s3_uri}/run")
    [selection] = [n for n in store.read_json("run.json")["current"] if n.startswith("selections/")]
    manifest = store.manifest(store.read_json("run.json")["current"][selection])
    assert sorted(ids_of(store, manifest)) == expected


def test_too_many_missing_losses_stop_the_run(known, tmp_path):
    ids, losses_NT, _ = known
    losses_NT = losses_NT.copy()
    losses_NT[5, 1] = np.nan
    table = pa.table({"example_id": ids[:-3], "losses": [*losses_NT[:-3]]})
    pa.parquet.write_table(table, tmp_path / "losses.parquet")
    with pytest.raises(ValueError) as error:
        chosen(tmp_path / "run", tmp_path / "losses.parquet", corpus())
    assert "4 of 210 examples have no loss at each of 3 points" in str(error.value)
    assert f"the first is example_id {ids[5]}." in str(error.value)
    assert "losses.max_missing_share, which is 1.0%" in str(error.value)
    found = chosen(
        tmp_path / "run", tmp_path / "losses.parquet", corpus(), losses__max_missing_share=0.02
    )
    assert not {*found} & {*ids[[5, -3, -2, -1]].tolist()}


@pytest.mark.parametrize("num_parts", [1, 3, 7, 32, 9_999])
def test_part_numbers_are_those_of_the_corpus(num_parts):
    ids = np.random.default_rng(num_parts).integers(0, 2**63, 1000)
    ids[:2] = 0, 2**63 - 1
    assert part_numbers(ids, num_parts).tolist() == [i * num_parts >> 63 for i in ids.tolist()]


def records(path, key="row"):
    files = find(str(path), StorageConfig())
    return [row for file in files.losses for table in read(file, key) for row in table.to_pylist()]


def test_tables_and_arrays_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"row": 4, "losses": [1.5, 2]}\n{"row": 2, "losses": [3, 4]}\n'
    )
    (tmp_path / "b.csv").write_text("row,step,loss\n4,1,1.5\n4,2,2\n2,1,3\n2,2,4\n")
    np.save(tmp_path / "c.npy", np.array([[9, 9], [9, 9], [3, 4], [9, 9], [1.5, 2]], np.float16))
    for name in ("a.jsonl", "b.csv", "c.npy"):
        found = {(row["key"], row["point"]): row["loss"] for row in records(tmp_path / name)}
        found = {place: loss for place, loss in found.items() if loss != 9}
        assert found == {(4, 1): 1.5, (4, 2): 2, (2, 1): 3, (2, 2): 4}, name


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": "row,loss\n1,2\n"}, "expected losses (a list per row), or step and loss"),
        ({"a.csv": "id,losses\n1,2\n"}, "found neither a column row nor example_id"),
        ({"a.jsonl": '{"row": 1, "losses": [1]}\n{"row": 2, "losses": [1, 2]}\n'}, "of one length"),
        ({"a.csv": "row,step,loss\nx,1,2\n"}, "not numbers"),
        ({"a1.pt": "nothing"}, "expected an array of numbers"),
        ({"a.csv": "row\n", "b.npy": ""}, "expected one kind"),
        ({"x.npy": "", "y.npy": ""}, "expected a number in the name"),
        ({"x1.npy": "", "y1.npy": ""}, "is of step 1 too"),
        ({"readme.md": ""}, "found no losses"),
    ],
)
def test_other_files_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as error:
        found = find(str(tmp_path), StorageConfig())
        key = key_of(LossesConfig(path=str(tmp_path)), found)
        for file in found.losses:
            [*read(file, key)]
    assert message in str(error.value)


def test_pickled_code_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

    torch.save(Trap(), tmp_path / "checkpoint-1.pt")
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="expected an array of numbers"):
        [*read(LossFile(store, "checkpoint-1.pt", 1), "row")]
    assert not (tmp_path / "sprung").exists()


def test_what_needs_a_proxy_is_refused_before_anything_starts(tmp_path):
    np.save(tmp_path / "losses.npy", np.zeros((3, 2), np.float32))
    losses = {"path": str(tmp_path / "losses.npy"), "key": "tokens"}
    config = settings(tmp_path / "run", losses=losses, selection__selector="el2n")
    with pytest.raises(ValueError) as error:
        preflight.check(config, corpus=False, diagnosis=True)
    assert "losses.key: found tokens, but" in str(error.value)
    assert "selector el2n needs more than losses (early)" in str(error.value)
    assert "diagnose varies the proxy" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_recorders_file_that_points_outside_itself_is_refused(tmp_path):
    """Its offsets: reading what they say would read other memory."""
    table = pa.table({"key": ["k" * 77_777], "to": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    offsets = (0).to_bytes(4, "little") + (77_777).to_bytes(4, "little")
    before, _, after = data.rpartition(offsets)  # the same number is in the metadata too
    store = Store(str(tmp_path))
    store.write_bytes(data, "whole.arrow")
    store.write_bytes(before + offsets[:-1] + b"\x7f" + after, "bad.arrow")
    assert rows_of(LossFile(store, "whole.arrow"), "to").num_rows == 1
    with pytest.raises(ValueError, match=r"bad.arrow: damaged: "):
        rows_of(LossFile(store, "bad.arrow"), "to")
    store.write_bytes(data[:-50], "cut.arrow")
    with pytest.raises(ValueError, match=r"cut.arrow: damaged: "):
        rows_of(LossFile(store, "cut.arrow"), "to")
