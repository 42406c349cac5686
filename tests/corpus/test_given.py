"""Datasets given in place of files."""

import datasets
import pytest

from s2l_ray.corpus.given import ROWS, check_given, dataset_of

CALL = {"type": "function", "function": {"name": "f", "arguments": {"b": 2}}}
SAID = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
CALLED = [SAID[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}]


def test_rows_of_the_library_datasets_come_as_they_are(local_ray):
    features = datasets.Features({"messages": datasets.List(datasets.Json())})
    given = datasets.Dataset.from_list([{"messages": SAID}, {"messages": CALLED}] * 3, features)
    found = dataset_of(given.select([1, 0, 2]))
    assert [row["messages"] for row in found.take_all()] == [CALLED, SAID, SAID]
    plain = datasets.Dataset.from_dict({"n": range(ROWS + 1), "text": ["a"] * (ROWS + 1)})
    found = dataset_of(plain)
    assert found.num_blocks() == 2
    assert sorted(row["n"] for row in found.take_all()) == list(range(ROWS + 1))
    assert dataset_of(found) is found and dataset_of(None) is None


@pytest.mark.parametrize(
    "given, why",
    [
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})}),
         "found a DatasetDict; give one of its splits: 'train'"),
        (datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset(), "load it without streaming"),
        ({"a": 1}, "found builtins.dict, expected a Dataset of Ray or of the library datasets"),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_refused(given, why):
    with pytest.raises(ValueError, match=f"^dataset: .*{why}"):
        check_given(given)
