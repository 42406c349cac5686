"""Whether the Hugging Face hub can be reached, and which commit a revision names.

Its own client asks for each file five times with pauses. A model in the cache would then take
minutes to load without a network, and one that is not there as long to be refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from s2l_ray.config import fingerprint
from s2l_ray.store import Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

SECONDS = 5.0  # that the hub is waited for
HOLDS = 60.0  # seconds that its silence is taken for granted
BUSY = (429, 500, 502, 503, 504)  # statuses that another try may change
TRIES, LONGEST_WAIT = 8, 60.0  # seconds

_silent: dict[str, tuple[float, str]] = {}  # host -> since when, and why
_told = set[str]()


@cache
def http_error() -> type[Exception]:
    """Return the base of all errors of the HTTP library under huggingface_hub (httpx or httpx2)."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(each for each in HfHubHTTPError.__mro__ if each.__name__ == "HTTPError")


def silence(url: str) -> str | None:
    """Say why the hub of a URL cannot be reached; None if it answers, whatever its answer is.

    None too if HF_HUB_OFFLINE forbids to ask.
    """
    from huggingface_hub import is_offline_mode
    from huggingface_hub.utils import get_session

    host = urlsplit(url).netloc
    if is_offline_mode():
        return None
    since, why = _silent.get(host, (-HOLDS, ""))
    if time.monotonic() - since < HOLDS:
        return why
    try:
        get_session().head(url, timeout=SECONDS)
    except http_error() as error:
        late = any(base.__name__ == "TimeoutException" for base in type(error).__mro__)
        why = f"no answer within {SECONDS:g} s" if late else str(error) or type(error).__name__
        _silent[host] = time.monotonic(), why
        return why
    return None


def patiently(action: Callable[[], T]) -> T:
    """Do something again, later, while the hub is busy or limits the rate."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for number in range(1, TRIES):
        try:
            return action()
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            # The second has the first as its cause: not in the cache, and the hub did not answer.
            response = getattr(error.__cause__ or error, "response", None)
            if response is None or response.status_code not in BUSY:
                raise
            after = response.headers.get("Retry-After", "")
            time.sleep(
                min(LONGEST_WAIT, float(after) if after.isdecimal() else 2.0 ** (number - 1))
            )
    return action()


def only_cached(name: str | None) -> bool:
    """Return whether a model or tokenizer must come from the hub's cache, because the hub cannot be
    reached. Logs that once."""
    if name is None or Path(name).is_dir():
        return False
    from huggingface_hub import hf_hub_url

    why = silence(hf_hub_url(name, "config.json"))
    if why and name not in _told:
        _told.add(name)
        logger.warning(f"the hub cannot be reached ({why}); {name} is taken from its cache")
    return why is not None


def commit_of_revision(
    store: Store, name: str, revision: str | None, refused: Callable[[Exception], Exception]
) -> str:
    """Return the commit that a revision of a hub model names. A run asks the hub once and keeps the
    answer: tokenizer and weights come from one commit, whenever they are needed.

    refused: makes the error to raise from that of the hub's client.
    """
    known = fingerprint(name, revision)
    folder = f"revisions/{name.replace('/', '--')}/{known}"
    if (manifest := store.manifest(folder)) is None:
        try:
            commit = _ask_for_commit(name, revision)
        except Exception as error:  # of huggingface_hub and its HTTP library
            raise refused(error) from error
        info = {"name": name, "revision": revision, "commit": commit}
        manifest = store.commit(folder, known, [], info)
    return manifest.info["commit"]


def _ask_for_commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi, is_offline_mode, snapshot_download

    if is_offline_mode() or only_cached(name):  # its cache knows which commit it has
        return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
    commit = patiently(lambda: HfApi().model_info(name, revision=revision)).sha
    assert commit
    return commit
