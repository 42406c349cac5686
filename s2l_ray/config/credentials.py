"""Credentials in a configuration: it is stored with the run and shown in its report, so none may be
there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

# Options after the "?" of a URI that hold no secret.
URI_OPTIONS = (
    "region", "scheme", "endpoint_override", "force_virtual_addressing", "tls_ca_file_path",
    "project_id", "retry_limit_seconds", "enable_tls", "user", "replication",
)  # fmt: skip

URI = re.compile(r"\s*([a-z][a-z0-9+.-]*):[/\\]{2}(.*)", re.IGNORECASE | re.DOTALL)
AUTHORITY = re.compile(r"//([^/\\?#&;,\s]*)@")  # also of a URI inside an option
CONTAINER = re.compile(r"[^:@]+")  # container@account of Azure, no secret
SECRET = (
    r"aws_?access_?key_?id|access_?key(_?id)?|secret(_?access)?(_?key)?|client_?secret|account_?key"
    r"|shared_?access_?(key|signature)|session_?token|security_?token|(access_?|auth_?|api_?)?token"
    r"|api_?key|pass(word|wd)?|pwd|sig(nature)?|credentials?|private_?key|x_amz_\w+|x_goog_\w+"
)
OPTION = re.compile(rf"[?&;#,]\s*({SECRET})\s*=", re.IGNORECASE)
# How services begin their tokens, and parameters that only signed URLs have. In any text.
TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|(?-i:\b(AKIA|ASIA)[A-Z0-9]{16}\b)|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{32,}"
    r"|\bX-(Amz|Goog)-(Signature|Credential|Security-Token)=|\bAWSAccessKeyId=|\bAccountKey="
    r"|\bSharedAccessSignature=|-----BEGIN [A-Z ]*PRIVATE KEY-----",
    re.IGNORECASE,
)


def credentials_fault(value: Any) -> str | None:
    """Say what is expected instead of a value that holds credentials, without repeating it.

    value: a string, or lists and mappings of them. None if it holds none.
    """
    return next((fault for text in _texts(value) if (fault := _fault_of(text))), None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(key)
            yield from _texts(each)


def _fault_of(text: str) -> str | None:
    plain = _decoded(text)
    match = URI.match(plain)
    if match and _uri_has_credentials(match[1].lower(), match[2]):
        return (
            "expected a path or URI without credentials (allowed after '?': "
            f"{', '.join(URI_OPTIONS)}); the libraries take them from the environment or a profile"
        )
    if TOKEN.search(plain):
        return (
            "expected a value without credentials, but it has the form of an access key or token; "
            "the libraries take them from the environment, such as HF_TOKEN, or a profile"
        )
    return None


def _uri_has_credentials(scheme: str, rest: str) -> bool:
    place, _, query = rest.partition("?")
    owner, at, _ = re.split(r"[/\\#;]", place, maxsplit=1)[0].rpartition("@")
    container = scheme in ("abfs", "abfss") and CONTAINER.fullmatch(owner)
    if at and not container:
        return True
    if OPTION.search(rest) or "@" in query or AUTHORITY.search(place.partition("/")[2]):
        return True
    options = [option.partition("=")[0].strip() for option in re.split("[&;?]", query)]
    return any(option and option not in URI_OPTIONS for option in options)


def _decoded(text: str) -> str:
    """Undo percent-encoding, also of what was encoded several times."""
    for _ in range(5):
        before, text = text, unquote(text)
        if text == before:
            break
    return text
