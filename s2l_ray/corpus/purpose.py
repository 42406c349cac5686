"""How the files of selection.toward are read: like the corpus, by the same columns and roles."""

from __future__ import annotations

from s2l_ray.config import CorpusConfig, RunConfig
from s2l_ray.corpus.sources import split_of_path

MISSING = (
    "selection.toward: found null, but the selectors toward and toward_path need examples of what "
    "the target should be good at: set it to a file of them, or choose another selector"
)
SOURCE = "toward"  # of the purpose's examples


def purpose_config(config: RunConfig) -> CorpusConfig:
    """Return the settings that the purpose's files are read with."""
    path, like = config.selection.toward, config.corpus
    if path is None:
        raise ValueError(MISSING)
    first = path if isinstance(path, str) else path[0]
    columns = {
        ours: theirs for ours, theirs in like.columns.items() if ours not in ("source", "topic")
    }
    return CorpusConfig(
        path=path,
        split=split_of_path(first, "train"),
        columns=columns | {"source": None},
        roles=like.roles,
        ignore_keys=like.ignore_keys,
        map=like.map,
        max_row_bytes=like.max_row_bytes,
        max_rejected_share=like.max_rejected_share,
        source=SOURCE,
    )
