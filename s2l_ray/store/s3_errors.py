"""What a failure of S3 means, and whether to retry."""

from __future__ import annotations

import os
import time

import botocore.exceptions as failures
from urllib3.exceptions import HTTPError

from s2l_ray.config import StorageConfig


def answer_of(error: Exception) -> tuple[str, int]:
    """Return the store's error code and HTTP status, or "" and 0 if it gave no answer."""
    if not isinstance(error, failures.ClientError):
        return "", 0
    code = error.response.get("Error", {}).get("Code", "")
    return code, error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def is_passing(error: Exception) -> bool:
    """Return whether a retry may help: no connection, a broken answer, an overload."""
    code, status = answer_of(error)
    if status:
        # 409: two simultaneous conditional writes; a retry shows which was first.
        passing = status in (408, 409, 429) or (status >= 500 and status != 501)
        return passing or code == "RequestTimeout"
    return isinstance(
        error,
        (
            failures.ConnectionError,
            failures.HTTPClientError,
            failures.IncompleteReadError,
            HTTPError,
        ),
    ) and not isinstance(error, failures.SSLError)


def explain(error: Exception, bucket: str, config: StorageConfig) -> str:
    """Say what a failure of S3 means and how to fix it."""
    response = getattr(error, "response", None) or {}
    code = response.get("Error", {}).get("Code", "")
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    endpoint = config.endpoint or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    if isinstance(error, failures.NoCredentialsError | failures.PartialCredentialsError):
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, or give "
            "this machine a role"
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"):
        return f"the credentials are refused ({code}): a wrong, expired or foreign key"
    if code == "RequestTimeTooSkewed":
        here, there = time.strftime("%F %T %Z"), headers.get("date", "another")
        return f"this machine's clock says {here}, the store's {there}: set it right"
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return f"there is no bucket {bucket!r} at {endpoint}"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"):
        home = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
        return (
            f"the bucket is in another region ({home or 'the store does not name it'}); "
            f"storage.region is {config.region!r}"
        )
    if code in ("AccessDenied", "403", "AllAccessDisabled"):
        return f"access denied ({code}): the credentials do not permit this in the bucket"
    if isinstance(error, failures.EndpointConnectionError | failures.ConnectionError):
        return f"{endpoint} does not answer: {error}"
    if isinstance(error, failures.HTTPClientError):
        return f"{endpoint} is too slow or breaks off: {error}"
    return f"{code or type(error).__name__}: {error}"
