"""Run directories cut short, damaged or newer: refused by file, or read as what was written."""

import copy
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.corpora import example, write_corpus
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.clustering.clusters import cluster, read_centers
from s2l_ray.config import BUILT_IN_SELECTORS, ClustersConfig, RunConfig
from s2l_ray.errors import Damaged
from s2l_ray.models.loading import load_model
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.scoring.trajectories import _Assemble
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Store
from s2l_ray.store.checksums import checksum_of
from s2l_ray.store.lease import Lease
from s2l_ray.store.manifest import FORMAT
from s2l_ray.store.schemas import LOSSES

FIXED = {"derandomize": True, "deadline": None, "database": None}
TABLE = pa.table({"example_id": [3, 5, 8], "loss": [0.5, 1.5, 2.5]})


def refusal(work, *names):
    with pytest.raises(ValueError) as caught:
        work()
    assert type(caught.value) in (ValueError, Damaged)
    assert any(name in str(caught.value) for name in names)
    return str(caught.value)


def cuts_and_flips(data, most=150):
    step = max(1, len(data) // most)
    yield from (data[:size] for size in range(0, len(data), step))
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :]


# ---- manifests


@pytest.fixture
def stage(store):
    """A committed stage: the store, its manifest and the manifest's file."""
    parts = [
        store.write_part(TABLE.slice(n), "losses/f", f"part-{n}", stats={"tokens": n})
        for n in range(2)
    ]
    manifest = store.commit("losses/f", "abc", parts, {"steps": [1, 2], "shares": {"a": 0.1}})
    return store, manifest, Path(store.address("losses/f/manifest.json"))


def test_a_manifest_cut_or_flipped_anywhere_is_refused_or_the_same(stage):
    store, manifest, path = stage
    for damaged in cuts_and_flips(path.read_bytes(), most=2000):
        path.write_bytes(damaged)
        try:
            found = store.manifest("losses/f")
        except ValueError as error:
            assert str(path) in str(error)
        else:  # white space, or the name of the field that holds the checksum
            assert found == manifest


def places(value, above=()):
    """The path of every value inside a JSON value, its own first."""
    yield above
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*above, key))


def test_a_manifest_with_any_value_changed_or_dropped_is_refused(stage):
    store, manifest, path = stage
    whole = json.loads(path.read_bytes())
    tried = 0
    for checked in (True, False):  # with a right checksum, types alone are known to be wrong
        for place in places(whole):
            for value in (None, True, -1, 1.5, "x", [], {}, 10**30, [[]], "drop"):
                data = copy.deepcopy({"root": whole})
                node, last = data, "root"
                try:
                    for key in place:
                        node, last = node[last], key
                    was = node[last]
                    node[last] = value
                    if value == "drop":
                        del node[last]
                except KeyError:
                    continue
                tried += 1
                if not checked and isinstance(data.get("root"), dict):
                    rest = {k: v for k, v in data["root"].items() if k != "checksum"}
                    data["root"]["checksum"] = checksum_of(json.dumps(rest).encode())
                path.write_text(json.dumps(data.get("root")))
                if place == ("checksum",) and not checked:
                    assert store.manifest("losses/f") == manifest
                elif checked or (len(place) == 1 and place != ("stage",) and type(value)
                                 is not type(was)):  # fmt: skip
                    refusal(lambda: store.manifest("losses/f"), str(path))
                else:
                    try:
                        store.manifest("losses/f")
                    except ValueError as error:
                        assert str(path) in str(error)
    assert tried > 400


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf{}", b"null", b"3", b'"x"', b"[]", b"[[]]", b"{", b"{}",
     b"NaN", b"[" * 100_000, b'{"format": 1}', b'{"format": 1e999}', b'{"format": NaN}',
     b'{"format": ' + b"9" * 5000 + b"}", b'{"format": null}', b"PAR1", bytes(range(256))],
)  # fmt: skip
def test_a_file_that_is_no_manifest_is_refused(stage, content):
    store, _, path = stage
    path.write_bytes(content)
    assert (
        "damaged" in refusal(lambda: store.manifest("losses/f"), str(path)) or b"1e999" in content
    )


def test_a_newer_format_is_said_to_be_newer(stage):
    store, _, path = stage
    for format in (FORMAT + 1, FORMAT + 0.5, 10**30):
        path.write_text(json.dumps({"format": format, "parts": "of another kind"}))
        assert f"format {format} is newer" in refusal(lambda: store.manifest("losses/f"), str(path))


@pytest.mark.parametrize("of_version_0_1", [False, True])
def test_a_manifest_of_another_stage_is_moved_aside_and_its_stage_made(
    stage, of_version_0_1, caplog
):
    store, _, path = stage
    if of_version_0_1:  # which did not write the whole folder
        data = json.loads(path.read_text()) | {"stage": "losses"}
        del data["checksum"]
        path.write_text(json.dumps(data | {"checksum": checksum_of(json.dumps(data).encode())}))
    settings = {"corpus": {"path": "a"}, "proxy": {"model": {"name": "m"}, "num_checkpoints": 2}}
    config = RunConfig.model_validate({"run_dir": store.uri} | settings)
    run = Run(config, store, Lease(store, seconds=60))
    losses = Stage("losses", alone(lambda run, **where: store.commit(*where.values(), [], {})))
    copied = Path(store.address(losses.folder, "manifest.json"))
    copied.parent.mkdir()
    shutil.copy(path, copied)
    assert run.get(losses).fingerprint == losses.fingerprint
    assert f"{copied}: damaged: " in caplog.text and "it is made again" in caplog.text
    assert ("found fingerprint abc" if of_version_0_1 else "it belongs to losses/f") in caplog.text
    [aside] = copied.parent.glob("manifest-damaged-*.json")
    assert aside.read_bytes() == path.read_bytes()


# ---- parts


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_a_part_cut_or_flipped_anywhere_is_refused(store, suffix):
    part = store.write_part(TABLE, "losses/f", "part-0", suffix=suffix)
    path = Path(store.address("losses/f", part.file))
    for damaged in cuts_and_flips(path.read_bytes()):
        path.write_bytes(damaged)
        assert "damaged" in refusal(lambda: store.read_part("losses/f", part), str(path))
        assert store.found_part("losses/f", part.file) is None
    path.unlink()
    assert "missing, but" in refusal(lambda: store.read_part("losses/f", part), str(path))


def test_parts_whose_files_are_swapped_are_refused(stage):
    store, manifest, _ = stage
    one, two = (Path(store.address("losses/f", part.file)) for part in manifest.parts)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)
    for part, path in zip(manifest.parts, (one, two), strict=True):
        assert "damaged" in refusal(lambda part=part: store.read_part("losses/f", part), str(path))
        assert store.found_part("losses/f", part.file) is None


# ---- checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model's folder, in a store whose training stage lists its files."""
    store = Store(tmp_path_factory.mktemp("models"))
    folder = Path(store.address("proxy/f/checkpoint-000001"))
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
             "num_attention_heads": 2, "vocab_size": 16}  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape)).save_pretrained(folder)
    copied = store.upload(folder, "other")
    parts = [replace(file, file=f"{folder.name}/{file.file}") for file in copied]
    store.commit("proxy/f", "f", parts, {})
    return store, folder


def changed(checkpoint, tmp_path, name, data):
    """A copy of the checkpoint with one file replaced, or removed."""
    folder = tmp_path / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint[1], folder)
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    return folder


def test_a_checkpoint_that_is_not_what_training_wrote_is_refused(checkpoint):
    store, folder = checkpoint
    where = "proxy/f/checkpoint-000001"
    assert store.download(where) == str(folder)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for damaged in [None, *cuts_and_flips(whole, most=20)]:
            path.unlink() if damaged is None else path.write_bytes(damaged)
            refusal(lambda: store.download(where), f"{where}/{path.name}: ")
        path.write_bytes(whole)
    assert store.download(where) == str(folder)


def test_a_model_folder_cut_short_is_refused(checkpoint, tmp_path):
    folder = checkpoint[1]
    assert load_model(folder).config.num_hidden_layers == 2
    weights = (folder / "model.safetensors").read_bytes()
    settings = (folder / "config.json").read_bytes()
    tensors = load_file(folder / "model.safetensors")
    fewer = {name: value for name, value in tensors.items() if name != "model.norm.weight"}
    save_file(fewer, tmp_path / "fewer", metadata={"format": "pt"})
    faults = [
        ("model.safetensors", None, "model.safetensors"),
        ("config.json", None, "config.json"),
        ("model.safetensors", (tmp_path / "fewer").read_bytes(), "model.norm.weight (1 in all)"),
        *(("config.json", data, "") for data in (b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe")),
        ("config.json", b'{"model_type": "unheard-of"}', "unheard-of"),
        *(("model.safetensors", weights[:n], "") for n in (0, 4, 8, 100, 999, len(weights) - 1)),
    ]
    for old, new, said in [
        (b'"num_hidden_layers": 2', b'"num_hidden_layers": 3', "missing weights model.layers.2"),
        (b'"num_hidden_layers": 2', b'"num_hidden_layers": 1', "unexpected weights model.layers.1"),
        (b'"vocab_size": 16', b'"vocab_size": 8', ""),
        (b'"hidden_size": 8', b'"hidden_size": "x"', "hidden_size"),
    ]:
        assert old in settings
        faults.append(("config.json", settings.replace(old, new), said))
    for name, data, said in faults:
        local = changed(checkpoint, tmp_path, name, data)
        assert said in refusal(
            lambda local=local: load_model(local), f"{local}: not a complete model"
        )
    shutil.rmtree(local)
    refusal(lambda: load_model(local), f"{local}: not a complete model")


# ---- losses, trajectories, centers


def losses_stages(store, losses_NT):
    """Corpus and losses stages of N examples and T checkpoints, one part each."""
    corpus = write_corpus(
        store, [example(f"q{n}", "a") for n in range(len(losses_NT))], num_parts=1
    )
    ids = store.read_part(corpus.folder, corpus.parts[0])["example_id"]
    parts = [
        store.write_part(
            pa.table([ids, pa.array(column, pa.float32()), pa.array([1] * len(ids), pa.int32())],
                     schema=LOSSES),
            "losses/f", f"step-{step:06d}/part-00000",
        )
        for step, column in enumerate(np.asarray(losses_NT).T, 1)
    ]  # fmt: skip
    return corpus, {
        "unit": "part-00000",
        "corpus": corpus.parts[0],
        "losses": [parts],
    }


@settings(max_examples=100, **FIXED)
@given(
    losses=st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 7.25, float("nan"), float("inf"), float("-inf")]),
                 min_size=3, max_size=3),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_a_loss_that_is_not_finite_makes_no_trajectory(tmp_path_factory, losses):
    store = Store(tmp_path_factory.mktemp("nan"))
    corpus, unit = losses_stages(store, losses)
    work = _Assemble(store, corpus.folder, ["losses/f"])
    bad = ~np.isfinite(losses)
    if not bad.any():
        table, _ = work(unit)
        assert table["losses"].to_pylist() == losses
        return
    row, checkpoint = np.argwhere(bad)[0]
    [parts] = unit["losses"]
    said = refusal(lambda: work(unit), store.address("losses/f", parts[checkpoint].file))
    assert f"the loss of example_id {unit_ids(store, corpus)[row]} is " in said


def unit_ids(store, corpus):
    return store.read_part(corpus.folder, corpus.parts[0])["example_id"].to_pylist()


@pytest.mark.parametrize(("bad", "n_clusters", "message"), [
    (float("nan"), 2, "a loss of row 2 is not finite (1 such rows)"),
    (float("inf"), 2, "a loss of row 2 is not finite (1 such rows)"),
    (1.0, 4, "n_clusters: 4, but there are only 3 examples"),
])  # fmt: skip
def test_trajectories_that_cannot_be_clustered(local_ray, store, bad, n_clusters, message):
    values = pa.array([0.0, 1.0, 2.0, bad, 4.0, 5.0], pa.float32())
    losses = pa.FixedSizeListArray.from_arrays(values, 2)
    table = pa.table({"example_id": [1, 2, 3], "source": ["a"] * 3, "losses": losses})
    part = store.write_part(table, "trajectories/f", "part-00000")
    manifest = store.commit("trajectories/f", "f", [part], {})
    config = ClustersConfig(n_clusters=n_clusters)
    with pytest.raises(ValueError) as caught:
        cluster(store, manifest, config, by_source=False, folder="clusters/f", fingerprint="f")
    assert message in str(caught.value)
    assert n_clusters == 4 or store.address("trajectories/f", part.file) in str(caught.value)
    assert store.manifest("clusters/f") is None


def test_centers_cut_short_or_altered_are_refused(store):
    centers = pa.table({"center": [[1.0, 2.0], [3.0, 4.0]]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, centers.schema) as writer:
        writer.write_table(centers)
    data = sink.getvalue().to_pybytes()
    mark = hashlib.blake2b(data, digest_size=8).hexdigest()
    clusters = store.commit("clusters/f", "f", [], {"centers": mark})
    for bad in [*cuts_and_flips(data), None]:
        store.remove("clusters/f", "centers.arrow")
        if bad is not None:
            store.write_bytes(bad, "clusters/f", "centers.arrow")
        with pytest.raises(
            Damaged, match=re.escape(store.address("clusters/f/centers.arrow"))
        ) as e:
            read_centers(store, clusters)
        assert e.value.folder == "clusters/f"  # so that the clusters are made again
    store.write_bytes(data, "clusters/f", "centers.arrow")
    assert read_centers(store, clusters).tolist() == [[1.0, 2.0], [3.0, 4.0]]


# ---- budgets and groups of any size


@settings(max_examples=300, **FIXED)
@given(
    groups=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=8
    ),
    budget=st.integers(1, 300),
    selector=st.sampled_from(BUILT_IN_SELECTORS),
)
def test_quotas_never_exceed_a_group_and_add_up(groups, budget, selector):
    """One group, empty groups, one source, a budget larger than all there is."""
    sizes = np.array([size for size, _ in groups])
    sources = [source for _, source in groups]
    chosen = selector_named(selector)
    if getattr(chosen, "groups", "all") == "all":
        sizes, sources = sizes.sum(keepdims=True), [None]
    quotas = chosen.quotas(sizes, sources, budget)
    assert ((quotas >= 0) & (quotas <= sizes)).all()
    assert quotas.sum() == min(budget, sizes.sum())
