"""What a failure of S3 means, and whether it may pass."""

from __future__ import annotations

import os
import time

import botocore.exceptions as failures
from urllib3.exceptions import HTTPError

from s2l_ray.config import StorageConfig


def answer_of(error: Exception) -> tuple[str, int]:
    """The store's code and HTTP status; "" and 0 where there was no answer."""
    if not isinstance(error, failures.ClientError):
        return "", 0
    code = error.response.get("Error", {}).get("Code", "")
    return code, error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def is_passing(error: Exception) -> bool:
    """Whether the error is of a kind that goes by: no connection, a broken answer, an overload."""
    code, status = answer_of(error)
    if status:
        # 409: of two conditional writes at a time; the next try tells who was first.
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
    """What a failure of S3 means, in words that say what to mend."""
    response = getattr(error, "response", None) or {}
    code = response.get("Error", {}).get("Code", "")
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    endpoint = config.endpoint or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    if isinstance(error, failures.NoCredentialsError | failures.PartialCredentialsError):
        return (
            "no credentials; wanted AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a "
            "role of this machine"
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"):
        return f"the credentials are refused ({code}): a wrong, expired or foreign key"
    if code == "RequestTimeTooSkewed":
        here, there = time.strftime("%F %T %Z"), headers.get("date", "another")
        return f"this machine's clock is off (it says {here}, the store {there}): set it right"
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return f"there is no bucket {bucket!r} at {endpoint}"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"):
        home = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
        return (
            f"the bucket is in another region ({home or 'the store does not say which'}; "
            f"storage.region is {config.region!r})"
        )
    if code in ("AccessDenied", "403", "AllAccessDisabled"):
        return f"access denied ({code}): the credentials lack the right to do this in the bucket"
    if isinstance(error, failures.EndpointConnectionError | failures.ConnectionError):
        return f"{endpoint} does not answer: {error}"
    if isinstance(error, failures.HTTPClientError):
        return f"{endpoint} breaks off or is too slow: {error}"
    return f"{code or type(error).__name__}: {error}"
