"""Datasets that a program gives in place of files. Ray Data takes half a second to import, which
runs of files do without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import ray.data

ROWS = 10_000  # of a Dataset of `datasets`, in one block


def check_given(dataset: Any) -> None:
    """Raise ValueError for what `dataset_of` does not take."""
    if dataset is None:
        return
    import ray.data

    if isinstance(dataset, ray.data.Dataset):
        return
    kind = type(dataset)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    if name == "datasets.DatasetDict":
        splits = ", ".join(map(repr, dataset))
        raise ValueError(f"dataset: found a DatasetDict; give one of its splits: {splits}")
    if name == "datasets.IterableDataset":
        raise ValueError(
            "dataset: found an IterableDataset, expected a Dataset: load it without streaming"
        )
    if name != "datasets.Dataset":
        raise ValueError(
            f"dataset: found {name}, expected a Dataset of Ray or of the library datasets, a path, "
            f"or None for corpus.path"
        )


def dataset_of(dataset: Any) -> ray.data.Dataset | None:
    """Return a Ray Dataset with the rows of a Dataset of the library `datasets`; None and a Ray
    Dataset as they are."""
    check_given(dataset)
    if dataset is None:
        return None
    import ray.data
    from ray.data.extensions import ArrowPythonObjectArray

    if isinstance(dataset, ray.data.Dataset):
        return dataset
    tables = dataset.with_format("arrow")
    rows = dataset.with_format(None)
    refs = []
    for first in range(0, max(1, len(dataset)), ROWS):
        part = range(first, min(first + ROWS, len(dataset)))
        table = tables[part]
        columns = {
            name: ArrowPythonObjectArray.from_objects(rows[part][name])
            if _has_json(column.type)
            else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        refs.append(ray.put(pa.table(columns)))
    return ray.data.from_arrow_refs(refs)


def _has_json(kind: pa.DataType) -> bool:
    """Whether a column has JSON texts that `datasets` shows as objects."""
    if isinstance(kind, pa.JsonType):
        return True
    return any(_has_json(kind.field(n).type) for n in range(kind.num_fields))
