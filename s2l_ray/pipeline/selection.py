"""A finished selection, for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.formatting import plural
from s2l_ray.selection.dataset import chosen_dataset, chosen_ids, chosen_table
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import SelectionView

if TYPE_CHECKING:
    import datasets
    import ray.data


@dataclass(frozen=True)
class Selection:
    """A finished selection. `dataset()` goes into any Ray Data or Ray Train program, `to_hf()` into
    a trainer of Hugging Face's kind."""

    store: Store
    manifest: Manifest
    exports: Mapping[str, str] = field(default_factory=dict)  # format -> folder or URI

    def __repr__(self) -> str:
        view = SelectionView(self.manifest)
        return (
            f"Selection({view.selector}: {view.examples:,} of {view.candidates:,} examples, "
            f"{plural(len(view.by_source), 'source')}, {view.tokens:,} tokens; {self.path})"
        )

    @property
    def path(self) -> str:
        """The folder of the subset: a local path or a URI."""
        return self.store.address(self.manifest.folder)

    @property
    def info(self) -> dict[str, Any]:
        """selector, budget, seed, examples, tokens, by_source, by_cluster."""
        return self.manifest.info

    def ids(self) -> np.ndarray:
        """Return the ids of the chosen examples in rank order: int64 [B]."""
        return chosen_ids(self.store, self.manifest)

    def dataset(self) -> ray.data.Dataset:
        """Return the chosen examples in rank order, lazily: example_id, source, messages, tools,
        file, row, rank, cluster_id, reason.

        messages and tools are Python objects in the form of the export `messages`; tools is None if
        there are none. Ray Train splits a dataset into equal shards and drops a remainder: with W
        workers, up to W - 1 examples per epoch, unless the budget is a multiple of W.
        """
        dataset = chosen_dataset(self.store, self.manifest)
        dataset.context.execution_options.preserve_order = True  # for this dataset alone
        return dataset

    def to_hf(self, export: str = "trl_messages") -> datasets.Dataset:
        """Return the chosen examples in rank order as a Dataset of the library `datasets`, in this
        process's memory.

        export: a format as in selection.export. ValueError for an example that it has no place for.
        """
        try:
            import datasets
        except ImportError:
            raise ImportError(
                "Selection.to_hf: the library datasets is not installed; pip install datasets"
            ) from None
        return datasets.Dataset(chosen_table(self.store, self.manifest, export))
