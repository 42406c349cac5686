"""Which files a folder or glob means: links, odd names, splits, partitions, what is passed over."""

import gzip
import json
import os
from pathlib import Path

import pytest
from support.parsed import read

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.reading import read_rows
from s2l_ray.corpus.sources import by_reason, find_all, resolve

CASES = Path(__file__).parents[1] / "cases"
ROW = json.dumps({"prompt": "p", "response": "r"}) + "\n"


def write(top: Path, *names: str) -> Path:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"prompt": name, "response": "r"}) + "\n")
    return top


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Find files below the test's folder: their names, and those passed over by reason."""
    monkeypatch.chdir(tmp_path)

    def find(path, **settings):
        result = find_all(CorpusConfig(path=path, **settings))
        return [file.name for file in result.files], result.passed

    return find


def test_hidden_files_are_left_out_of_folders_and_globs(tmp_path, found):
    write(tmp_path, "data/train.jsonl", "data/.train.jsonl.swp.jsonl", "data/_old.jsonl")
    write(tmp_path, "data/.ipynb_checkpoints/train-checkpoint.jsonl")
    (tmp_path / "data/._train.jsonl").write_bytes(b"\0\5\26\7Mac OS X")
    hidden = "hidden: a name begins with . or _"
    dots = {"data/.train.jsonl.swp.jsonl": hidden, "data/._train.jsonl": hidden}
    folder = {"data/.ipynb_checkpoints": hidden, "data/_old.jsonl": hidden}
    assert found("data") == (["data/train.jsonl"], dict(sorted((dots | folder).items())))
    names = ["data/_old.jsonl", "data/train.jsonl"]  # as for a shell
    for pattern in ("data/*.jsonl", "**/*.jsonl", "*/*.jsonl"):
        assert found(pattern) == (names, dict(sorted(dots.items())))
    assert found("data/.ipynb*/*")[0] == ["data/.ipynb_checkpoints/train-checkpoint.jsonl"]


def test_what_is_passed_over_is_named_with_its_reason(tmp_path, found):
    write(tmp_path, "set/a.jsonl", "set/sub/b.jsonl", "set/README.md", "set/x.parquet.gz")
    write(tmp_path, "set/dataset_info.json")
    (tmp_path / "set/empty.jsonl").touch()
    os.mkfifo(tmp_path / "set/pipe.jsonl")
    reasons = {
        "set/README.md": "unknown ending",
        "set/dataset_info.json": "describes a dataset and holds no rows",
        "set/empty.jsonl": "empty",
        "set/pipe.jsonl": "neither a file nor a folder",
        "set/x.parquet.gz": "unknown ending",
    }
    files = ["set/a.jsonl", "set/empty.jsonl", "set/sub/b.jsonl"]
    assert found("set") == (files, reasons)
    below = {"set/sub": "a folder; a pattern that ends in /** reads its files"}
    assert found("set/*") == (["set/a.jsonl", "set/empty.jsonl"], reasons | below)
    assert found("set/**")[0] == files
    csv = {name: "not of corpus.format csv" for name in files}
    (tmp_path / "set/c.csv").write_text("prompt,response\na,b\n")
    assert csv.items() <= found("set", format="csv")[1].items()
    assert by_reason(reasons)[0] == ("unknown ending", 2, "set/README.md, set/x.parquet.gz")
    with pytest.raises(ValueError, match=r"'s\*' matches no file.*found a folder; .*: set"):
        found("s*")


def test_only_empty_files_are_refused(tmp_path, found):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ValueError, match=r"only empty files: a\.jsonl"):
        found("*.jsonl")


def test_links_are_followed_once(tmp_path, found):
    write(tmp_path, "set/a.jsonl", "set/sub/b.jsonl", "outside/c.jsonl", "single.jsonl", "x.jsonl")
    links = {
        "to-outside": "../outside",
        "to-outside-again": "../outside",
        "to-file.jsonl": "../single.jsonl",
        "to-a.jsonl": "a.jsonl",
        "here": ".",
        "up": "..",
        "sub/up": "..",
        "gone.jsonl": "nothing.jsonl",
        "self.jsonl": "self.jsonl",
    }
    for name, target in links.items():
        (tmp_path / "set" / name).symlink_to(target)
    (tmp_path / "outside/back").symlink_to("../set")
    (tmp_path / "outside/up").symlink_to("..")
    names, passed = found("set")
    assert names == [
        "set/a.jsonl",
        "set/sub/b.jsonl",
        "set/to-file.jsonl",
        "set/to-outside/c.jsonl",
    ]
    again = "a link to what is read already, or to a folder above"
    assert [name.removeprefix("set/") for name, why in passed.items() if why == again] == [
        *("here", "sub/up", "to-a.jsonl", "to-outside-again"),
        *("to-outside/back", "to-outside/up", "up"),
    ]
    assert passed["set/gone.jsonl"] == "a broken link (No such file or directory)"
    assert passed["set/self.jsonl"].startswith("a broken link (Too many levels")
    names, passed = found(["set/a.jsonl", "set/to-a.jsonl"])
    assert names == ["set/a.jsonl"]
    assert passed == {"set/to-a.jsonl": "the same file as set/a.jsonl"}
    assert "set/to-outside/c.jsonl" in found("set/to-outside")[0]


def test_odd_names_are_read_and_shown_without_control_characters(tmp_path, found):
    names = ["[2024] set/x.jsonl", "a b#%20ä.jsonl", "esc\x1b[31m.jsonl", "line\nbreak.jsonl"]
    write(tmp_path, *names)
    (tmp_path / "Y.JSONL.GZ").write_bytes(gzip.compress(ROW.encode()))
    Path(os.fsdecode(b"latin\xe9.jsonl")).write_text(ROW)
    shown = [
        "Y.JSONL.GZ",
        "[2024] set/x.jsonl",
        "a b#%20ä.jsonl",
        r"esc\x1b[31m.jsonl",
        r"latin\xe9.jsonl",
        r"line\nbreak.jsonl",
    ]
    assert sorted(found(".")[0]) == sorted(f"./{name}" for name in shown)
    assert sorted(found("**")[0]) == shown
    assert found("[2024] set/x.jsonl")[0] == found("[2024] set/*")[0] == ["[2024] set/x.jsonl"]
    assert found("*/x.jsonl")[0] == found("[[]2024] set/x.jsonl")[0] == ["[2024] set/x.jsonl"]
    write(tmp_path, "deep/[2024] set/x.jsonl")
    assert found("d*/[2024] set/x.jsonl")[0] == ["deep/[2024] set/x.jsonl"]
    for file in resolve(CorpusConfig(path="**")):
        [row] = read_rows(file, CorpusConfig(path="."))
        assert row.content["response"] == "r"


def test_a_message_shows_no_control_characters(tmp_path, found):
    (tmp_path / "\x1b[31mred").mkdir()
    write(tmp_path, "\x1b[31mred/a.txt")
    with pytest.raises(ValueError, match="matches no file") as caught:
        found("\x1b[31mred")
    assert "\x1b" not in str(caught.value) and r"\x1b[31mred/a.txt" in str(caught.value)


def test_a_reason_shows_no_control_characters(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"\\u001b[31mred": "a"}\n')
    with pytest.raises(ValueError, match="no columns of a known shape") as caught:
        read(path)
    assert r"found \x1b[31mred" in str(caught.value)
    map_of_columns = {"instruction": "a\x1bb", "output": "c"}
    rows = read(path, b'{"a\\u001bb": 7, "c": "d"}\n', columns=map_of_columns)
    assert rows[0]["reason"] == r"wrong type of 'a\x1bb': expected a string, got a number"


SPLITS = ["data/test.jsonl", "data/train.jsonl", "data/validation/x.jsonl"]


@pytest.mark.parametrize("path", [".", "**/*.jsonl", "data"])
def test_of_a_folder_with_splits_one_is_read(tmp_path, found, path):
    write(tmp_path, *SPLITS)

    def plain(names):
        return [name.removeprefix("./") for name in names]

    names, passed = found(path)
    assert plain(names) == SPLITS[1:2]
    assert plain(passed) == [SPLITS[0], SPLITS[2]]
    assert [*passed.values()] == [
        f"of the split '{split}', not 'train'; to evaluate on it, name it in evaluation.files"
        for split in ("test", "validation")
    ]
    assert plain(found(path, split="test")[0]) == SPLITS[:1]
    assert plain(found(path, split="validation")[0]) == SPLITS[2:]


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["a-train-00000-of-00002.jsonl", "a-test-00000-of-00001.jsonl.gz"], [0], [1]),
        (["train/0.jsonl", "train/1.jsonl", "eval/0.jsonl"], [0, 1], [2]),
        (["more.jsonl", "training.jsonl", "testing_2.json"], [1], [2]),
        (["a.jsonl", "b.jsonl", "test.jsonl"], [0, 1], [2]),
        (["split=train/a.jsonl", "split=test/a.jsonl"], [0], [1]),
        (["latest.jsonl", "contest.jsonl", "developer.jsonl"], [0, 1, 2], [0, 1, 2]),
        (["source=test/a.jsonl", "b.jsonl"], [0, 1], [0, 1]),
        (["train.jsonl", "more.jsonl"], [0, 1], None),
        (["test.jsonl", "dev.jsonl"], None, [0]),
    ],
)
def test_splits_are_known_by_words_at_the_ends_of_names(tmp_path, found, names, train, test):
    write(tmp_path, *(f"set/{name}" for name in names))
    for split, wanted in (("train", train), ("test", test)):
        if wanted is None:
            with pytest.raises(ValueError, match=f"no file of the split '{split}' .*; found "):
                found("set", split=split)
        else:
            read_names = sorted(f"set/{names[index]}" for index in wanted)
            assert found("set", split=split)[0] == read_names


def test_files_that_are_named_are_read_whatever_their_split(tmp_path, found):
    write(tmp_path, *SPLITS)
    assert found(SPLITS)[0] == SPLITS
    assert found(["data/train.jsonl", "data/t*t.jsonl"])[0] == [SPLITS[0], SPLITS[1]]
    assert found("data/validation")[0] == SPLITS[2:]


def test_hive_folders_give_columns(tmp_path, found):
    rows = [row for file in resolve(CorpusConfig(path=str(CASES / "c36_hive")))
            for row in read(Path(file.name))]  # fmt: skip
    assert [(row["source"], row["turns"][0]["text"]) for row in rows] == [
        ("code", "code 1?"),
        ("math", "math 1?"),
    ]
    write(tmp_path, "topic=a%20b/source=x/1.jsonl", "topic=__HIVE_DEFAULT_PARTITION__/2.jsonl")
    files = resolve(CorpusConfig(path="**/*.jsonl"))
    assert [file.partitions for file in files] == [{}, {"topic": "a b", "source": "x"}]
    own = tmp_path / "source=folder/own.jsonl"
    own.parent.mkdir()
    own.write_text('{"prompt": "p", "response": "r", "source": "row"}\n' + ROW)
    assert [row["source"] for row in read(own)] == ["row", "folder"]
    [row] = read(tmp_path / "topic=a%20b/source=x/1.jsonl", columns={"source": "topic"})
    assert row["source"] == "a b"
    [row] = read(tmp_path / "topic=a%20b/source=x/1.jsonl", columns={"source": None})
    assert row["source"] == "default"


def test_a_description_of_a_dataset_is_no_corpus():
    [file] = resolve(CorpusConfig(path=str(CASES / "c54_meta")))
    assert Path(file.name).name == "train.jsonl"
