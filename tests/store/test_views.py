"""Views of manifests: the keys that stages write, by name, and the message if one is missing."""

import pyarrow as pa
import pytest

from s2l_ray.store import Manifest, Part, schemas, views
from s2l_ray.store.views import CorpusView, GroupsView, SelectionView, TokensView


def part(number, **stats):
    return Part(f"part-{number}", f"part-{number}.arrow", 3, 10, "c", stats)


def test_a_view_reads_the_info_and_sums_the_stats():
    parts = [part(0, trainable=3, refused=0), part(1, trainable=2, refused=1,
             refused_first=["a.jsonl", 7, "no place"])]  # fmt: skip
    tokens = TokensView(Manifest("tokens/f", "f", parts, {"tokenizer": "tokenizers/t"}))
    assert (tokens.trainable, tokens.trainable_by_part, tokens.refused) == (5, [3, 2], 1)
    assert (tokens.tokenizer, tokens.max_length) == ("tokenizers/t", 0)
    assert tokens.refused_first == ("a.jsonl", 7, "no place")
    assert TokensView(Manifest("tokens/f", "f", parts[:1])).refused_first is None
    with pytest.raises(ValueError, match="tokens/f: its manifest has no 'label_tokens'; it has"):
        tokens.label_tokens  # noqa: B018


def test_a_missing_key_names_the_folder_and_what_is_there():
    corpus = CorpusView(Manifest("corpus/f", "f", [], {"num_parts": 4}))
    assert (corpus.num_parts, corpus.heldout, corpus.heldout_by_source) == (4, 0, {})
    with pytest.raises(ValueError, match="corpus/f: its manifest has no 'examples'; it has num_p"):
        corpus.examples  # noqa: B018
    assert repr(corpus) == "CorpusView('corpus/f')"


def test_groups_are_one_unless_the_stage_has_several():
    one = GroupsView(Manifest("trajectories/f", "f", [], {"steps": [1, 2]}))
    assert (one.sources, one.edges, one.ranked) == ([None], None, None)
    assert not one.has("sources")
    two = GroupsView(Manifest("rankings/x/f", "f", [], {"sources": ["a", "b"], "edges": None}))
    assert two.sources == ["a", "b"] and two.has("edges") and two.edges is None


def test_a_view_has_the_keys_of_the_info_that_it_is_written_from():
    info = {"selector": "s2l", "budget": 0.5, "seed": 0, "examples": 2, "candidates": 4,
            "tokens": 9, "by_source": {"a": 2}, "by_cluster": [2],
            "groups_above_quota": 1.0}  # fmt: skip
    selection = SelectionView(Manifest("selections/s2l-seed0/f", "f", [], info))
    assert {name: getattr(selection, name) for name in info} == info


def test_every_view_is_of_a_manifest():
    kinds = [each for each in vars(views).values() if isinstance(each, type)]
    for kind in kinds:
        if issubclass(kind, views.View):
            assert kind(Manifest("x/f", "f", [])).manifest.folder == "x/f"


def test_a_part_is_written_as_json_and_read_again():
    one = part(0, trainable=3)
    assert Part.from_json(one.to_json()) == one


def test_schemas_with_a_width():
    assert schemas.trajectories(3).field("losses").type == pa.list_(pa.float32(), 3)
    assert schemas.centers(2).field("center").type == pa.list_(pa.float64(), 2)
    signals = schemas.signals(["grad_norm", "features"], 4)
    assert signals.names == [*schemas.LOSSES.names, "features", "grad_norm"]
    assert signals.field("features").type == pa.list_(pa.float32(), 4)
    assert schemas.signals([], 0) == schemas.LOSSES
