"""So many held-out examples of each source."""

import json
from collections import Counter

import pytest
from support.runs import ids_of, rows_of

from s2l_ray.config import CorpusConfig, validate
from s2l_ray.corpus.identity import content_of, draw_of
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.sample import sample
from s2l_ray.errors import ConfigError

SIZES = {"large": 300, "middle": 30, "small": 7, "one": 1}


def row(source, number):
    return {"instruction": f"{source} {number}", "output": f"o{number}", "source": source}


@pytest.fixture
def files(tmp_path):
    items = [row(source, n) for source, size in SIZES.items() for n in range(size)]
    items += [row("small", 3)] * 20  # repeats make no source larger
    items += [row("large", n) | {"source": "copies"} for n in range(40)]
    for place, name in enumerate(("a", "b")):
        lines = [json.dumps(each) + "\n" for each in items[place::2]]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return str(tmp_path / "*.jsonl")


def draws(examples):
    """The hash of each text, by the function that is tested elsewhere."""
    return {draw_of(content_of(Example(each["turns"])), 7): each["source"] for each in examples}


def test_the_smallest_hashes_of_each_source_and_of_no_source_more_than_half(
    local_ray, store, files
):
    config = CorpusConfig(path=files, heldout_per_source=10)
    corpus = ingest(store, config, folder="corpus/a", fingerprint="a", seed=7)
    heldout = store.manifest("corpus/a/heldout")
    kept, held = rows_of(store, corpus), rows_of(store, heldout)
    counts = Counter(each["source"] for each in held)
    # Copies of the large source's texts are held out with them, and the other way round.
    assert counts["middle"] == 10 and counts["small"] == 3 and counts["one"] == 0
    assert counts["large"] >= 10 and counts["copies"] >= 10
    for source in ("middle", "small"):
        left = sorted(draws([each for each in kept if each["source"] == source]))
        taken = sorted(draws([each for each in held if each["source"] == source]))
        assert taken[-1] < left[0]
    assert not draws(kept).keys() & draws(held).keys()  # no text is on both sides
    assert len(kept) + len(held) == sum(SIZES.values()) + 40
    assert corpus.info["heldout_by_source"] == dict(sorted(counts.items()))

    again = ingest(store, config, folder="corpus/b", fingerprint="b", seed=7)
    assert ids_of(store, again) == ids_of(store, corpus)
    other = ingest(store, config, folder="corpus/c", fingerprint="c", seed=8)
    assert ids_of(store, other) != ids_of(store, corpus)


def test_a_sample_tells_how_many(files):
    found = sample(CorpusConfig(path=files, heldout_per_source=10), seed=7)
    assert 10 + 3 + 10 + 10 >= found.heldout >= 10 + 3 + 10


def test_one_draw_or_the_other():
    data = {
        "run_dir": "x", "proxy": {"model": {"name": "m"}, "num_checkpoints": 2},
        "corpus": {"path": "x", "heldout_share": 0.1, "heldout_per_source": 100},
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"heldout_per_source: found 100 beside heldout_share: 0\.1"
    ):
        validate(data)
