"""Whether the Hugging Face hub can be reached.

Its own client asks for each file five times with pauses. A model in the cache would then take
minutes to load without a network, and one that is not there as long to be refused.
"""

from __future__ import annotations

import logging
import time
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

SECONDS = 5.0  # that the hub is waited for
HOLDS = 60.0  # seconds that its silence is taken for granted

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
