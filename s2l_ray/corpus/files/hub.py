"""Datasets of a hub, through the library `datasets`."""

from __future__ import annotations

from collections.abc import Iterator

from s2l_ray.corpus.files.source import SourceFile
from s2l_ray.corpus.rows import SourceRow

HUB_ROWS = 50_000  # rows of a hub dataset that one task reads


def find_hub(name: str, split: str) -> list[SourceFile]:
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"corpus.path: hf://{name}: install the extra 'huggingface' (datasets)"
        ) from None
    try:
        commit = huggingface_hub.HfApi().dataset_info(name).sha or ""
        data = datasets.load_dataset(name, split=split, revision=commit)
    except Exception as error:  # of several HTTP libraries
        raise ValueError(f"corpus.path: hf://{name}, split {split!r}: {error}") from error
    spans = [(i, min(i + HUB_ROWS, len(data))) for i in range(0, len(data), HUB_ROWS)]
    size = data.data.nbytes // max(1, len(data))
    return [
        SourceFile(f"hf://{name}", "", name, "hub", size * (j - i), commit, i, j) for i, j in spans
    ]


def read_hub(file: SourceFile, split: str) -> Iterator[SourceRow]:
    import datasets

    data = datasets.load_dataset(file.path, split=split, revision=file.stamp)
    for index in range(file.start, file.stop):
        yield SourceRow(index + 1, None, data[index])
