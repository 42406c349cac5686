"""Files whose readers die: the run ends and names the file. One death is no fault of the file."""

import json
import time

import pytest
import ray

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.apart import sample_apart
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.sample import sample
from s2l_ray.execution import tries as module
from s2l_ray.execution.parts import fold_parts
from s2l_ray.execution.tries import Tries


def files(folder, **deadly):
    """Two files of good rows, and the path of a third, with a row in the middle of good ones."""
    folder.mkdir()
    rows = [{"instruction": f"q{n}", "output": "a"} for n in range(30)]
    for name, some in (
        ("a.jsonl", rows[:10]),
        ("b.jsonl", rows[10:20]),
        ("deadly.jsonl", [*rows[20:], {"instruction": "x", "output": "y"} | deadly]),
    ):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    return CorpusConfig(path=str(folder), map="support.deadly:row")


@pytest.mark.parametrize(
    "how",
    ["segfault", pytest.param("exit", marks=pytest.mark.slow),
     pytest.param("killed", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_file_that_ends_its_reader_twice_ends_the_run_by_its_name(
    local_ray, store, tmp_path, how
):
    config, began = files(tmp_path / "in", how=how), time.monotonic()
    with pytest.raises(ValueError) as caught:
        ingest(store, config, folder="corpus/x", fingerprint="x")
    told = str(caught.value)
    assert told.startswith(
        f"{tmp_path}/in/deadly.jsonl: its reader died 2 times, the last time on node "
    )
    assert "it crashed or was killed, for example for lack of memory. If the file is" in told
    assert told.endswith("leave it out of corpus.path")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("how, told", [("segfault", "SIGSEGV"), ("exit", "exit code 1")])
def test_a_file_that_ends_the_reader_of_a_sample_is_named(tmp_path, how, told):
    with pytest.raises(ValueError) as caught:
        sample_apart(files(tmp_path / "in", how=how), seed=1)
    assert str(caught.value).startswith(
        f"{tmp_path}/in/deadly.jsonl: its reader died ({told}): it crashed or was killed"
    )


def test_a_sample_taken_apart_is_the_sample(tmp_path):
    config = files(tmp_path / "in")
    here, apart = sample(config, seed=1), sample_apart(config, seed=1)
    assert apart._replace(seconds=0) == here._replace(seconds=0) and apart.rows == 31
    with pytest.raises(ValueError, match="none"):
        sample_apart(CorpusConfig(path=str(tmp_path / "none")), seed=1)


def test_one_death_is_no_fault_of_the_file(local_ray, store, tmp_path):
    config = files(tmp_path / "in", how="killed", once=str(tmp_path / "once"))
    found = ingest(store, config, folder="corpus/x", fingerprint="x")
    assert (tmp_path / "once").exists() and found.info["examples"] == 31


def test_deaths_with_a_node_do_not_count(local_ray, monkeypatch):
    tries = Tries(2)

    def work(number, tries, gone):
        import ray

        from s2l_ray.execution import tries as module

        key = f"{tries.name} file".encode()
        here = ray.get_runtime_context().get_node_id()
        value = json.dumps([gone, gone, here] if number == 0 else [here, gone, here])
        module.internal_kv._internal_kv_put(key, value, namespace=module.NAMESPACE)
        with tries.of("file", "file: its reader"):
            return "done"

    assert list(fold_parts(work, [0], tries, "00" * 28)) == ["done"]
    with pytest.raises(ValueError, match="file: its reader died 2 times"):
        list(fold_parts(work, [1], tries, "00" * 28))


def test_work_that_ends_or_fails_is_not_noted(local_ray):
    tries = Tries(1)
    for _ in range(3):
        with tries.of("é/\udcff file", "told"):
            pass
        with pytest.raises(KeyError), tries.of("é/\udcff file", "told"):
            raise KeyError
    left = module.internal_kv._internal_kv_list(tries.name, namespace=module.NAMESPACE)
    assert not left and ray.is_initialized()
