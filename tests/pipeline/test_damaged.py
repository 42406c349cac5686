"""A finished run whose files are flipped, cut, emptied, removed or swapped, one after another.

Each damage is noticed by what reads the file, named, and healed; the selection stays the same.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
from support.runs import corpus, files_of, settings

import s2l_ray
from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.errors import Damaged
from s2l_ray.pipeline.record import read_record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import prepare
from s2l_ray.pipeline.targets import finetune_selected
from s2l_ray.store import Store
from s2l_ray.store.listing import UNLISTED, list_files
from s2l_ray.store.views import TokensView


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x11]) + data[middle + 1 :]


DAMAGES = {
    "flipped": flipped,
    "cut": lambda data: data[: len(data) * 2 // 3],
    "emptied": lambda data: b"",
    "removed": lambda data: None,
}


def damage(path, how, sibling=None):
    """Damage a file; False if that changes nothing."""
    data = path.read_bytes()
    if how == "swapped":
        other = sibling.read_bytes()
        sibling.write_bytes(data)
        path.write_bytes(other)
        return other != data
    bad = DAMAGES[how](data)
    path.unlink() if bad is None else path.write_bytes(bad)
    return bad != data


def sibling_of(path):
    """Another file of its kind: beside it, or in a folder beside its own. None was moved aside."""
    near = [*path.parent.glob(f"*{path.suffix}"), *path.parent.parent.glob(f"*/*{path.suffix}")]
    whole = (each for each in near if each.is_file() and "-damaged-" not in each.name)
    return next((each for each in whole if each != path), None)


def listed_files(root):
    """Every file that a manifest of the run lists, with the manifest's folder and its Part."""
    for folder, manifest in list_files(Store(root)).manifests.items():
        for part in manifest.files:
            yield folder, manifest, part


# ---- what a run directory consists of


def test_every_file_of_a_finished_run_is_listed_by_a_manifest(finished):
    listing = list_files(Store(finished[0]))
    assert (listing.strays, listing.damaged) == ([], {})
    kinds = {folder.split("/")[0] for folder in listing.manifests}
    assert {"corpus", "tokenizers", "tokens", "proxy", "losses", "exports"} <= kinds
    # Few files are left to the patterns: lease, run.json and manifests, each with its own reason.
    listed = {f"{folder}/{part.file}" for folder, _, part in listed_files(finished[0])}
    others = set(listing.sizes) - listed
    reasons = {
        next(why for pattern, why in UNLISTED.items() if re.fullmatch(pattern, name))
        for name in others
    }
    assert len(reasons) == 3


def test_a_file_that_no_manifest_lists_is_told(copy):
    (copy / "tokens/notes.txt").write_text("mine")
    selection = next(copy.glob("selections/*/*"))
    (selection / "extra.json").write_text("{}")
    strays = list_files(Store(copy)).strays
    assert strays == [f"{selection.relative_to(copy)}/extra.json", "tokens/notes.txt"]


def test_damage_to_any_listed_file_is_noticed_and_named_when_it_is_read(copy):
    store, tried = Store(copy), 0
    for folder, manifest, part in list(listed_files(copy)):
        path = copy / folder / part.file
        whole, sibling = path.read_bytes(), sibling_of(path)
        other = sibling.read_bytes() if sibling else b""
        for how in [*DAMAGES, *(["swapped"] if sibling else [])]:
            if not damage(path, how, sibling):
                continue
            with pytest.raises(Damaged, match=re.escape(str(path))) as noticed:
                store.read_listed(folder, part)
            assert noticed.value.folder == folder
            if how not in ("flipped", "swapped") and whole:  # its size tells, before it is read
                assert str(path) in store.fault(manifest)
            path.write_bytes(whole)
            if sibling:
                sibling.write_bytes(other)
            tried += 1
    assert tried > 200
    assert list_files(store).damaged == {}


def test_damage_to_any_manifest_is_noticed_and_named(copy):
    store, manifests = Store(copy), [*copy.rglob("manifest.json")]
    for path in manifests:
        folder, whole = str(path.parent.relative_to(copy)), path.read_bytes()
        for bad in [flipped(whole), whole[:-9], b"", *(m.read_bytes() for m in manifests)]:
            if bad == whole:
                continue
            path.write_bytes(bad)
            with pytest.raises(Damaged, match=re.escape(str(path))) as noticed:
                store.manifest(folder)
            assert noticed.value.folder == folder
        path.write_bytes(whole)
    assert len(manifests) > 10


# ---- healing


def select(folder, **changes):
    return s2l_ray.select(corpus(), settings(folder, **changes)).ids().tolist()


def stages_of(root):
    """The content of each file of the stages, without what was moved aside, and without resume
    points, whose names have the number of the run's lease."""
    return {
        path: content
        for path, (content, _) in files_of(root).items()
        if "manifest-damaged-" not in path and "/resume/" not in path
    }


def check_healed(root, before):
    """All files of all stages are as before the damage, and none is there that was not. Manifests
    list the same; their info may have a number that is measured again, such as an inertia."""
    after = stages_of(root)
    assert after.keys() == before.keys()
    for path, content in before.items():
        if path.endswith("manifest.json"):
            found, expected = (json.loads(each) for each in (after[path], content))
            assert found.keys() == expected.keys()
            kept = found.keys() - {"info", "checksum"}
            assert {key: found[key] for key in kept} == {key: expected[key] for key in kept}, path
        else:
            assert after[path] == content, path


def vocabulary_swapped(path):
    """Two entries of the vocabulary: every example would get other tokens, of the same number."""
    text = path.read_text()
    first, second = '"a": ', '"e": '
    assert first in text and second in text
    path.write_text(text.replace(first, "\0").replace(second, first).replace("\0", second))


@pytest.mark.parametrize("how", [*DAMAGES, "two entries swapped"])
def test_a_damaged_tokenizer_is_made_again(copy, said, how):
    before, [path] = stages_of(copy), copy.glob("tokenizers/*/tokenizer.json")
    vocabulary_swapped(path) if how == "two entries swapped" else damage(path, how)

    def work(run):
        prepare(run, corpus())
        load_tokenizer(run.store, TokensView(run.done["tokens"]).tokenizer)

    with Run.start(settings(copy)) as run:
        run.finish(work)
    told = said()
    assert str(path) in told and "it is made again" in told
    check_healed(copy, before)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_export_is_written_again(finished, copy, said, how):
    before = stages_of(copy)
    for pattern in ("data/*", "README.md"):
        [path] = copy.glob(f"exports/*/*/*/{pattern}")
        damage(path, how)
        said()
        assert select(copy) == finished[1].ids().tolist()
        assert str(path) in (told := said()) and "it is made again" in told
        check_healed(copy, before)


def test_a_tokenizer_of_version_0_1_is_listed_from_then_on(copy, said):
    before, [folder] = stages_of(copy), copy.glob("tokenizers/*")
    (folder / "manifest.json").unlink()  # as that version left it
    select(copy)
    assert "has no checksums yet; they are taken from it as it is" in said()
    check_healed(copy, before)
    (folder / "manifest.json").unlink()
    (folder / "tokenizer.json").unlink()
    select(copy)
    check_healed(copy, before)


def test_a_tokenizer_that_is_made_again_and_is_another_one_is_refused(copy):
    [path] = copy.glob("tokenizers/*/tokenizer.json")
    vocabulary_swapped(path)
    store, folder = Store(copy), str(path.parent.relative_to(copy))
    store.remove(folder, "manifest.json")
    with pytest.raises(ValueError, match=r"but tokens/.* was made with .*: it was made again"):
        select(copy)  # the swapped file is taken for one of version 0.1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"current": []}', None])
def test_a_damaged_run_json_is_set_aside_and_written_again(finished, copy, said, content):
    path, before = copy / "run.json", stages_of(copy)
    record = json.loads(path.read_text())
    changed = {"current": record["current"] | {"tokens": "tokens/0123456789abcdef"}}
    bad = json.dumps(record | changed).encode() if content is None else content
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"run\.json: damaged: "):
        read_record(Store(copy))
    assert select(copy) == finished[1].ids().tolist()
    assert f"{path}: damaged: " in said()
    [aside] = copy.glob("run-damaged-*.json")
    assert aside.read_bytes() == bad
    assert read_record(Store(copy))["current"] == record["current"]
    aside.unlink()
    check_healed(copy, before)


def test_the_manifest_of_a_training_is_made_again_without_training(finished, copy, said):
    before, [path] = stages_of(copy), copy.glob("proxy/*/manifest.json")
    path.write_bytes(flipped(path.read_bytes()))
    assert select(copy) == finished[1].ids().tolist()
    assert str(path) in said()
    check_healed(copy, before)


@pytest.mark.slow
def test_a_target_that_is_tuned_after_damage_is_the_same(copy, tmp_path, said):
    intact = Path(shutil.copytree(copy, tmp_path / "intact"))

    def tuned(folder):
        def work(run):
            prepare(run, corpus())
            return finetune_selected(run)[0]

        with Run.start(settings(folder, target__epochs=1)) as run:
            return run.finish(work)

    expected = tuned(intact)
    [vocabulary] = copy.glob("tokenizers/*/tokenizer.json")
    vocabulary_swapped(vocabulary)
    [subset] = copy.glob("selections/*/*/subset/*.parquet")
    damage(subset, "flipped")
    said()
    assert tuned(copy).files == expected.files
    told = said()
    assert str(vocabulary) in told and str(subset) in told
    assert stages_of(copy).keys() == stages_of(intact).keys()


@pytest.mark.slow
def test_what_only_other_settings_read_is_healed_when_they_come(finished, copy, said):
    """Flipped losses, checkpoints and trajectories, which hardly anything reads while what follows
    is there."""
    before = stages_of(copy)
    for kind, followed_by in (
        ("trajectories/*/part-*", "clusters"),
        ("losses/*/*/part-*", "trajectories"),
        ("proxy/*/checkpoint-*/model.safetensors", "losses"),
    ):
        path = sorted(copy.glob(kind))[1]
        damage(path, "flipped")
        said()
        assert select(copy) == finished[1].ids().tolist()
        shutil.rmtree(copy / followed_by)
        assert select(copy) == finished[1].ids().tolist()
        assert str(path) in (told := said()) and "it is made again" in told
        check_healed(copy, before)


@pytest.mark.slow
def test_a_proxy_leaves_the_checkpoints_that_are_asked_for(finished, copy, said):
    [proxy] = copy.glob("proxy/*")
    before = {path.name for path in proxy.glob("checkpoint-*")}
    assert select(copy, proxy__keep_checkpoints=1) == finished[1].ids().tolist()
    kept = {path.name for path in proxy.glob("checkpoint-*")}
    assert kept == {max(before)} and len(before) == 3
    assert list_files(Store(copy)).strays == []
    assert select(copy, proxy__keep_checkpoints=1, selection__budget=30)
    assert "made again" not in said()
    # What scores the proxy again trains it again.
    chosen = select(copy, proxy__keep_checkpoints=1, trajectories__dtype="bfloat16")
    assert len(chosen) == 40
    assert "it was removed after it was scored (keep_checkpoints), and is needed again" in said()
    assert {path.name for path in proxy.glob("checkpoint-*")} == kept


@pytest.mark.slow
def test_files_of_every_kind_are_healed_and_the_selection_is_the_same(finished, copy, said):
    """With another budget too. Each damage strikes another file of a kind, if there are several. A
    damaged file of the right size that nothing reads stays as it is."""
    small = select(copy, selection__budget=30)
    before, kinds, tried = stages_of(copy), {}, 0
    for name in before:
        if not re.match(r"proxy/[^/]+/checkpoint", name):  # above
            kind = re.sub(r"[0-9a-f]{16}|\d{5,}", "*", name)
            kinds.setdefault(kind, []).append(name)
    assert len(kinds) > 20
    for names in kinds.values():
        for number, how in enumerate([*DAMAGES, "swapped"]):
            name = names[number % len(names)]
            path, sibling = copy / name, sibling_of(copy / name)
            if (how == "swapped" and sibling is None) or not damage(path, how, sibling):
                continue
            said()
            assert select(copy, selection__budget=30) == small, (name, how)
            assert select(copy) == finished[1].ids().tolist(), (name, how)
            told = said()
            for each in [path, *([sibling] if how == "swapped" else [])]:
                whole = before[str(each.relative_to(copy))]
                if each.exists() and each.stat().st_size == len(whole) and str(each) not in told:
                    each.write_bytes(whole)
            check_healed(copy, before)
            tried += 1
    assert tried > 80, kinds.keys()
