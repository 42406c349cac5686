"""A subset as a dataset on a Hugging Face hub.

The token comes from the environment (HF_TOKEN) or `hf auth login`. It is never an argument.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from s2l_ray.execution.hub import http_error
from s2l_ray.selection.exports.formats import rows_of, typed
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import completed_subset

TARGET = re.compile(r"hf://([\w.-]+/[\w.-]+)")
RECORD = "selection.json"  # in the repository; its mark, too
PRIVATE = ("file", "row")  # columns that tell of this machine
OWN = re.compile(r"data/part-\d{5}\.parquet")


def push(store: Store, subset: Manifest, target: str, *, card: str, public: bool) -> str:
    """Upload a subset in one commit and return the address of its page.

    target: hf://owner/name. Its files are data/*.parquet with the columns messages, tools,
    example_id, source, rank and reason; selection.json; and README.md, the card. A repository that
    exists is replaced if a push made it and it is as public as asked for. ValueError otherwise, or
    if the hub refuses.
    """
    match = TARGET.fullmatch(target)
    if match is None:
        raise ValueError(f"{target!r}: expected hf://owner/name")
    if get_token() is None:
        raise ValueError(f"{target}: there is no token; set HF_TOKEN, or run `hf auth login`")
    name, api = match[1], HfApi()
    with _explained(target), tempfile.TemporaryDirectory(prefix="s2l-push-") as folder:
        found = _files(api, name, target, public)
        if found is None:
            api.create_repo(name, repo_type="dataset", private=not public)
        record = json.dumps(subset.info, indent=1, ensure_ascii=False)
        made = {"README.md": card.encode(), RECORD: record.encode()}
        changes: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path, data) for path, data in made.items()
        ]
        names = []
        for number, part in enumerate(subset.parts):
            names.append(f"data/part-{number:05d}.parquet")
            file = Path(folder, f"{number}.parquet")
            pq.write_table(_rows(completed_subset(store.read_part(subset.folder, part))), file)
            changes.append(CommitOperationAdd(names[-1], file))
        old = [each for each in found or () if OWN.fullmatch(each) and each not in names]
        changes += [CommitOperationDelete(each) for each in old]
        done = api.create_commit(
            name,
            changes,
            repo_type="dataset",
            commit_message=f"{subset.rows:,} examples chosen by {subset.info['selector']}",
        )
    return str(done.repo_url)


def _files(api: HfApi, name: str, target: str, public: bool) -> list[str] | None:
    """Return the files of a repository; None if there is none. ValueError if it is not ours."""
    try:
        about = api.dataset_info(name)
    except RepositoryNotFoundError:
        return None
    files = [each.rfilename for each in about.siblings or ()]
    if about.private is public:
        has, do = (
            ("private", "leave out --public")
            if about.private
            else ("public", "give --public if all may read the examples")
        )
        raise ValueError(f"{target} exists and is {has}: {do}, or push to another name")
    if RECORD not in files and set(files) - {".gitattributes"}:
        raise ValueError(
            f"{target} exists, and no push of a selection made it ({len(files)} files): push to "
            f"another name"
        )
    return files


def _rows(examples: pa.Table) -> pa.Table:
    rows = rows_of(examples, "messages")
    for row, rank, reason in zip(
        rows, examples["rank"].to_pylist(), examples["reason"].to_pylist(), strict=True
    ):
        row |= {"rank": rank, "reason": reason}
    return typed(rows, "messages").drop_columns(list(PRIVATE))


@contextmanager
def _explained(target: str) -> Iterator[None]:
    """Raise what the hub refuses as a ValueError of one sentence."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError(
            f"{target}: HF_HUB_OFFLINE is set, so nothing was pushed; unset it"
        ) from None
    except HFValidationError as error:
        raise ValueError(f"{target}: not the name of a repository: {error}") from None
    except HfHubHTTPError as error:
        raise ValueError(f"{target}: {_refusal(target, error)}; nothing was pushed") from None
    except http_error() as error:
        endpoint = HfApi().endpoint
        raise ValueError(
            f"{target}: {endpoint} cannot be reached ({error}); nothing was pushed"
        ) from None
    except RuntimeError as error:  # of the threads that upload
        why = error.__cause__ or error
        raise ValueError(f"{target}: {error} ({why}); nothing was pushed, try again") from None


def _refusal(target: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    owner = target.removeprefix("hf://").partition("/")[0]
    return {
        401: "the hub does not accept the token; set another HF_TOKEN, or run `hf auth login`",
        403: f"the token may not write to {owner}; give it the right to, or push to another owner",
        404: f"the hub knows no {owner} that the token may write to",
        409: "it exists, but the token may not see it; push to another name",
    }.get(status, f"the hub answered {status}: {str(error).splitlines()[0]}")
