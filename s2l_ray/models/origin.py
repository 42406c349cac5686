"""Where the files of a pretrained model are: in a local folder, or in the run, copied from the hub.

The driver copies a hub model into the run once (`keep_model`). Workers and actors read it from
there (`on_this_node`), one download per node; they need no access to the hub.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path

from s2l_ray.config import ModelConfig, fingerprint
from s2l_ray.execution.hub import commit_of_revision, only_cached, patiently
from s2l_ray.models.files import EXPECTED_WEIGHTS, hub_fault
from s2l_ray.store import Store

# What transformers loads a model from. Other files of a repository may be as large again.
SETTINGS = ("config.json", "generation_config.json")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")

logger = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()  # several targets may start from one model


def origin_of(model: ModelConfig) -> str | None:
    """Return where the files of a pretrained model are, for `Store.download`; None if the model is
    trained from scratch.

    A model in a local folder is read in place. A hub model is in a folder of the run.
    """
    if model.name is None:
        return None
    if Path(model.name).is_dir():
        return str(Path(model.name).absolute())
    place = model.name.replace("/", "--")
    return f"models/{place}/{fingerprint(model.name, model.revision)}"


def keep_model(store: Store, model: ModelConfig) -> str | None:
    """Copy a hub model into the run, unless it is there; return `origin_of(model)`.

    It is the commit of its tokenizer (commit_of_revision). The info of the folder's manifest has
    name, revision and commit. ValueError if the hub does not give the model.
    """
    origin = origin_of(model)
    if origin is None or model.name is None or Path(origin).is_absolute():
        return origin
    with _one_at_a_time:
        if store.manifest(origin) is None:
            store.guard()
            logger.info(f"copying the model {model.name} from the hub into the run")
            name, revision = model.name, model.revision
            commit = commit_of_revision(store, name, revision, partial(_refused, name, revision))
            local, matching = _download(name, revision, commit)
            files = store.upload(local, origin, matching=matching)
            info = {"name": model.name, "revision": model.revision, "commit": local.name}
            store.commit(origin, origin.rpartition("/")[2], files, info)
    return origin


def on_this_node(store: Store, model: ModelConfig, origin: str | None) -> ModelConfig:
    """Return the model with a local folder for its name: this node's copy of `origin`."""
    if origin is None:
        return model
    return model.model_copy(update={"name": store.download(origin), "revision": None})


def commit_of(store: Store, origin: str | None) -> dict[str, str] | None:
    """Return name, revision and commit of a hub model that the run has a copy of."""
    manifest = store.manifest(origin) if origin and not Path(origin).is_absolute() else None
    return manifest.info if manifest else None


def _download(name: str, revision: str | None, commit: str) -> tuple[Path, list[str]]:
    """Return the hub cache's folder of a model at a commit, whose name is the commit's, and the
    patterns of the model's files there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        matching = [*SETTINGS, *SAFETENSORS]
        here = only_cached(name)
        local = Path(
            patiently(
                lambda: snapshot_download(
                    name, revision=commit, allow_patterns=matching, local_files_only=here
                )
            )
        )
        if any(file for pattern in SAFETENSORS for file in local.glob(pattern)):
            return local, matching
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _refused(name, revision, error) from error
    raise ValueError(
        f"model: {name!r} has no safetensors on the hub; {EXPECTED_WEIGHTS} (pickled weights, "
        "pytorch_model.bin, could run code when they are loaded)"
    )


def _refused(name: str, revision: str | None, error: Exception) -> ValueError:
    why = hub_fault(name, revision, weights=True) or str(error).partition("\n")[0]
    return ValueError(f"model: {name!r} cannot be copied from the hub: {why}")
