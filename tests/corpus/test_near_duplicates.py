"""Groups of near-duplicates, against a naive loop over all pairs and by hand."""

import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from support.corpora import example, write_corpus
from support.runs import rows_of

from s2l_ray.analysis.copies import groups_told, spent, spent_told
from s2l_ray.corpus import minhash, near_duplicates, similar_pairs
from s2l_ray.corpus.copies import Copies, without_copies
from s2l_ray.corpus.near_duplicates import group, sign
from s2l_ray.store import Store
from s2l_ray.store.schemas import TOKENS
from s2l_ray.store.views import CorpusView, NearDuplicatesView

WORDS, SIMILARITY = 3, 0.8
FROZEN = "[[509965528, 266136932, 271627656], [2747688399, 1767364624, 2099376490]]\n"


def copied(count=300, seed=0):
    """Texts of 20 to 79 words; half of them are another with one to four words changed."""
    random, found = np.random.default_rng(seed), list[str]()
    words = [f"word{n}" for n in range(400)]
    for number in range(count):
        text = [str(each) for each in random.choice(words, random.integers(20, 80))]
        if number % 2:
            text = found[int(random.integers(len(found)))].split()
            for place in random.integers(0, len(text), random.integers(1, 5)):
                text[place] = f"new{number}"
        found.append(" ".join(text))
    return found


def example_of(text):
    prompt, _, response = text.partition(" ")
    return example(prompt, response)


def stages(store, texts, num_parts=3, unlabelled=(), folder="corpus/test"):
    """Corpus and tokens; ids by text. unlabelled: texts without a label token."""
    corpus = write_corpus(store, [example_of(text) for text in texts], num_parts, folder)
    parts, ids = [], {}
    for part in corpus.parts:
        rows = store.read_part(corpus.folder, part).to_pylist()
        mine = [" ".join(turn["text"] for turn in row["turns"]) for row in rows]
        ids |= {text: row["example_id"] for text, row in zip(mine, rows, strict=True)}
        table = {
            "example_id": [row["example_id"] for row in rows],
            "input_ids": [[1]] * len(rows),
            "loss_mask": [[True]] * len(rows),
            "num_label_tokens": [int(text not in unlabelled) for text in mine],
            "truncated": [False] * len(rows),
        }
        table = pa.table(table).cast(TOKENS)
        parts.append(store.write_part(table, f"tokens/{num_parts}", part.unit))
    return corpus, store.commit(f"tokens/{num_parts}", "t", parts, {}), ids


def found_in(store, corpus, tokens, name="n", similarity=SIMILARITY):
    place = {"folder": f"near_duplicates/signatures/{name}", "fingerprint": name}
    signed = sign(store, corpus, tokens, WORDS, **place)
    place["folder"] = f"near_duplicates/groups/{name}"
    return group(store, signed, CorpusView(corpus), similarity, **place)


def components(pairs):
    """Sets of what pairs connect, by a naive loop."""
    found = []
    for pair in pairs:
        touched = [each for each in found if each & {*pair}]
        found = [each for each in found if each not in touched]
        found.append({*pair}.union(*touched))
    return found


def groups_in(store, near):
    found = {}
    for row in rows_of(store, near):
        found.setdefault(row["group"], []).append((row["place"], row["example_id"]))
    return {first: [i for _, i in sorted(members)] for first, members in found.items()}


def similarity_of(one, other):
    one, other = ({tuple(t[i : i + WORDS]) for i in range(len(t) - WORDS + 1)}
                  for t in (one.split(), other.split()))  # fmt: skip
    return len(one & other) / len(one | other)


@pytest.fixture
def made(local_ray, store):
    texts = copied()
    corpus, tokens, ids = stages(store, texts)
    return texts, ids, corpus, tokens, found_in(store, corpus, tokens)


def test_groups_are_those_of_a_loop_over_all_pairs(store, made):
    texts, ids, _, _, near = made
    found = [{*members} for members in groups_in(store, near).values()]
    exact = {(a, b): similarity_of(a, b) for a, b in combinations(texts, 2)}
    # Three standard errors of the estimate beside the threshold: surely found, surely not.
    for surely in components([(ids[a], ids[b]) for (a, b), s in exact.items() if s >= 0.9]):
        assert any(surely <= members for members in found)
    at_most = components([(ids[a], ids[b]) for (a, b), s in exact.items() if s >= 0.69])
    assert all(any(members <= each for each in at_most) for members in found)
    # And the same groups as of all pairs with that share of equal numbers.
    signed = minhash.signatures(texts, WORDS)
    alike = (signed[:, None] == signed[None]).mean(axis=2) >= SIMILARITY
    pairs = [(ids[texts[a]], ids[texts[b]]) for a, b in np.argwhere(np.triu(alike, 1))]
    assert sorted(map(sorted, found)) == sorted(map(sorted, components(pairs)))
    assert len(found) > 30 and max(map(len, found)) > 2


def test_the_estimate_is_that_of_the_exact_similarity():
    texts = copied(200, seed=1)
    signed = minhash.signatures(texts, WORDS)
    errors = [
        (signed[a] == signed[b]).mean() - similarity_of(texts[a], texts[b])
        for a, b in combinations(range(200), 2)
        if similarity_of(texts[a], texts[b]) > 0.3
    ]
    assert len(errors) > 90
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.045


def test_places_are_by_id_and_the_manifest_counts(store, made):
    _, ids, corpus, _, near = made
    found, view = groups_in(store, near), NearDuplicatesView(near)
    for first, members in found.items():
        assert members == sorted(members) and members[0] == first and len(members) > 1
    sizes = [len(members) for members in found.values()]
    assert (view.groups, view.largest, near.rows) == (len(sizes), max(sizes), sum(sizes))
    assert view.left_out(1) == sum(sizes) - len(sizes)
    assert view.left_out(2) == sum(max(0, size - 2) for size in sizes)
    copies, every = Copies.of(near, 2), np.array(sorted(ids.values()))
    left_out = {i for members in found.values() for i in members[2:]}
    assert {*every[~copies.kept(store, every)].tolist()} == left_out
    assert copies.kept(store, np.empty(0, np.int64)).tolist() == []
    place = {"folder": "near_duplicates/kept/k", "fingerprint": "k"}
    kept = without_copies(store, corpus, copies, **place)
    assert [row["example_id"] for row in rows_of(store, kept)] == [
        i for i in every.tolist() if i not in left_out
    ]


@pytest.mark.slow
def test_the_number_of_parts_and_of_pieces_changes_nothing(local_ray, tmp_path, monkeypatch):
    texts, found = copied(120), []
    for name, num_parts, group_bytes in (("one", 1, 2**28), ("seven", 7, 2**28), ("many", 7, 4096)):
        store = Store(tmp_path / name)
        monkeypatch.setattr(similar_pairs, "GROUP_BYTES", group_bytes)
        monkeypatch.setattr(similar_pairs, "PIECE_BYTES", 1 if name == "many" else 2**18)
        near = found_in(store, *stages(store, texts, num_parts)[:2])
        found.append(sorted(rows_of(store, near), key=lambda row: row["example_id"]))
        for part in near.parts:
            first, end = NearDuplicatesView(near).ids_of(part.unit)
            ids = store.read_part(near.folder, part)["example_id"].to_pylist()
            assert ids == sorted(ids) and all(first <= i < end for i in ids)
        if name == "many":
            pieces = store.manifest(f"{near.folder}/candidates").parts
            assert len(pieces) > 5
    assert found[0] == found[1] == found[2] != []


def test_groups_cross_the_generations_of_a_corpus_that_grew(local_ray, store, tmp_path):
    texts = copied(120)
    found = found_in(store, *stages(store, texts)[:2])
    grown = Store(tmp_path / "grown")
    made = [
        stages(grown, some, num_parts, folder=f"corpus/{num_parts}")[:2]
        for some, num_parts in ((texts[:70], 3), (texts[70:], 2))
    ]
    whole = []
    for each in zip(*made, strict=True):
        parts = [
            replace(part, unit=f"{part.unit}.g{n:03d}" if n else part.unit, folder=stage.folder)
            for n, stage in enumerate(each)
            for part in stage.parts
        ]
        places = [
            {"folder": stage.folder, "num_parts": n} for stage, n in zip(each, (3, 2), strict=True)
        ]
        info = {"num_parts": 3, "generations": places}
        whole.append(grown.commit(f"grown/{len(whole)}", "g", parts, info))
    rows = [
        sorted(rows_of(at, near), key=lambda row: row["example_id"])
        for at, near in ((store, found), (grown, found_in(grown, *whole)))
    ]
    assert rows[0] == rows[1] != []


def stopping(*_):
    raise ValueError("stopped")


def test_a_run_that_stopped_between_two_shuffles_ends_with_the_same_bytes(
    local_ray, store, tmp_path, monkeypatch
):
    corpus, tokens, _ = stages(store, copied(120))
    whole = found_in(store, corpus, tokens)
    other = Store(tmp_path / "stopped")
    corpus, tokens, _ = stages(other, copied(120))
    with monkeypatch.context() as patched:
        patched.setattr(similar_pairs, "_similar", stopping)
        with pytest.raises(ValueError, match=r"^stopped$"):
            found_in(other, corpus, tokens)
    folder = "near_duplicates/groups/n"
    assert other.exists(folder, "first", "manifest.json")
    assert not other.exists(folder, "similar", "manifest.json")
    before = other.read_bytes(folder, "first", "manifest.json")
    assert found_in(other, corpus, tokens).to_json() == whole.to_json()
    assert other.read_bytes(folder, "first", "manifest.json") == before


def test_a_key_that_many_share_costs_no_square(local_ray, store, monkeypatch):
    """All of 200 texts are one with a word of their own at the end: all keys are those of all."""
    text = " ".join(f"word{n}" for n in range(400))
    corpus, tokens, _ = stages(store, [f"{text} last{n}" for n in range(200)])
    near = found_in(store, corpus, tokens)
    assert NearDuplicatesView(near).sizes == [[200, 1]]
    candidates = store.manifest(f"{near.folder}/candidates")
    assert candidates.rows <= 200 * (similar_pairs.NEIGHBOURS + 2)  # of 19,900 pairs
    monkeypatch.setattr(near_duplicates, "MOST_PAIRS", 100)
    with pytest.raises(ValueError, match=r"199 pairs.*at most 100.*raise similarity \(now 0.7\)"):
        found_in(store, corpus, tokens, "fewer", 0.7)


def test_examples_without_a_label_token_hold_no_place(local_ray, store):
    texts = copied(40)
    corpus, tokens, ids = stages(store, texts)
    first = {members[0] for members in groups_in(store, found_in(store, corpus, tokens)).values()}
    gone = [text for text in texts if ids[text] in first]
    assert gone
    other = Store(f"{store.uri}-other")
    corpus, tokens, _ = stages(other, texts, unlabelled=gone)
    rows = rows_of(other, found_in(other, corpus, tokens))
    assert first.isdisjoint(row["example_id"] for row in rows)


def test_what_a_text_is():
    turns = [
        {"role": "system", "text": "Be brief.", "reasoning": None, "tool_calls": None},
        {"role": "user", "text": "Ask", "reasoning": None, "tool_calls": None},
        {"role": "assistant", "text": "", "reasoning": "Think", "tool_calls": "[]"},
    ]
    assert near_duplicates._text(turns) == "Ask Think []"
    assert minhash.shingles("A b, c", 3) == {"a b ,", "b , c"}
    assert minhash.shingles("one", 3) == {"one"}
    assert minhash.shingles("", 3) == {""}
    assert minhash.shingles("猫が好き", 3) == {"猫 が 好", "が 好 き"}


def test_keys_are_of_equal_bands_and_as_many_as_find_the_pairs():
    assert minhash.rows_per_band(0.8) == 6  # 1 - (1 - 0.8^6)^21 = 0.998; with 7: 0.985
    assert minhash.rows_per_band(0.5) == 3
    assert minhash.rows_per_band(1.0) == 128
    signed = np.arange(2 * 128, dtype=np.uint32).reshape(2, 128)
    signed[1, 6:] = signed[0, 6:]
    keys = minhash.band_keys(signed, 6)
    assert keys.shape == (2, 21) and len(np.unique(keys)) == 22
    assert (keys[0] == keys[1]).tolist() == [False] + [True] * 20


def test_signatures_are_the_same_in_every_process():
    """With another seed of Python's own hashes, and those of an earlier day."""
    code = (
        "from s2l_ray.corpus.minhash import signatures; "
        "print(signatures(['The cat sat on the mat.', ''], 3)[:, :3].tolist())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert said == {FROZEN}


def test_what_a_subset_spends_on_copies_by_hand(local_ray, store):
    text = " ".join(f"word{n}" for n in range(60))
    others = [" ".join(f"{name}{n}" for n in range(60)) for name in ("a", "b", "c")]
    texts = [f"{text} {n}" for n in range(4)] + [f"{others[0]} {n}" for n in range(2)] + others[1:]
    corpus, tokens, ids = stages(store, texts)
    near = found_in(store, corpus, tokens)
    view = NearDuplicatesView(near)
    assert view.sizes == [[2, 1], [4, 1]]
    # Three of the first group, one of the second, one of none.
    chosen = [ids[each] for each in (*texts[:3], texts[4], texts[6])]
    parts = [
        store.write_part(pa.table({"example_id": some}), "selections/x", f"subset/part-{n:05d}")
        for n, some in enumerate((chosen[:2], chosen[2:]))
    ]
    of = spent(store, near, store.commit("selections/x", "x", parts, {}))
    assert of == (5, 4, 2)
    assert spent_told("s2l", of) == (
        "s2l spends 40.0% of its budget on copies: 4 of 5 examples are in groups of "
        "near-duplicates, 2 of them beside another of their group."
    )
    told = (
        "75.0% of 8 examples are in 2 groups of near-duplicates, the largest of 4; "
        "1 of each can be chosen, 4 are left out."
    )
    assert groups_told(view, 8, 1) == told
    assert groups_told(view, 8, None).endswith("the largest of 4; all can be chosen.")
