"""Whole objects by name in an S3 bucket, below a prefix. The same interface as objects.py.

Credentials come only from the standard chain of the AWS libraries (environment, profile, instance
role). Requests that fail for a passing reason are retried for PATIENCE seconds.

A bucket has no locks. With a guard, a change is made on the condition that the object's ETag is the
one from before the guard (If-Match, If-None-Match). Ceph 16 ignores it for files above LARGE and
for deletions: there, a process paused exactly between guard and request may undo another's change.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import botocore.exceptions as failures
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from urllib3.exceptions import HTTPError

from s2l_ray.config import StorageConfig
from s2l_ray.errors import StorageError
from s2l_ray.store.objects import Guard
from s2l_ray.store.s3_client import client
from s2l_ray.store.s3_errors import answer_of, explain, is_passing

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
PATIENCE = 300.0  # seconds, with a store that does not answer or is in trouble
LARGE = 64 << 20  # bytes; larger files are uploaded in pieces of this size
ABSENT = {"NoSuchKey", "404", "NotFound", "NoSuchUpload"}
LAST = "provide-client-params.s3.CompleteMultipartUpload"  # the request that makes it an object
TRIES = 3  # at a change, while the object changes between guard and request


class S3Objects:
    """Objects of s3://bucket/prefix."""

    def __init__(self, uri: str, config: StorageConfig) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self.bucket, self.prefix, self.config = bucket, prefix.strip("/"), config
        self.conditional = True  # until the store refuses a conditional write
        self.client, self.patience = client(config), PATIENCE
        self.extra: dict[str, str] = {}
        if config.encryption:
            self.extra["ServerSideEncryption"] = config.encryption
        if config.kms_key:
            self.extra["SSEKMSKeyId"] = config.kms_key

    def read(self, name: str, first: int | None = None) -> bytes:
        """Return an object, or its first bytes. FileNotFoundError if there is none."""
        part = {} if first is None else {"Range": f"bytes=0-{first - 1}"}

        def get() -> bytes:
            found = self.client.get_object(Bucket=self.bucket, Key=self._key(name), **part)
            return found["Body"].read()

        return self._ask(f"read {name}", get)

    def write(self, name: str, data: bytes, guard: Guard | None = None) -> None:
        def put(condition: dict[str, str]) -> None:
            what = f"replace {name}" if condition else f"write {name}"
            self._ask(what, lambda: self._put(name, data, **condition))

        # Sent again after its answer was lost, a request meets what it wrote itself.
        self._change(name, put, guard, is_done=lambda: self.read(name) == data)

    def create(self, name: str, data: bytes, guard: Guard | None = None) -> bool:
        """Create an object; return False if it already exists.

        On a store without conditional writes (`conditional` is then False), two simultaneous
        callers may both get True.
        """
        if guard is not None:
            guard()
        if self.conditional:
            try:
                self._ask(f"create {name}", lambda: self._put(name, data, IfNoneMatch="*"))
                return True
            except FileExistsError:
                # Or this very request, sent again after its answer was lost, created it.
                return self.read(name) == data
            except NotImplementedError:
                self.conditional = False
        if self.exists(name):
            return False
        self.write(name, data)
        return True

    def put_file(self, local: Path, name: str, guard: Guard | None = None) -> None:
        if local.stat().st_size <= LARGE:
            return self.write(name, local.read_bytes(), guard)
        transfer = TransferConfig(multipart_threshold=LARGE, multipart_chunksize=LARGE)

        def upload(conditional: bool) -> None:
            def at_its_end(params: dict[str, Any], **_: Any) -> None:
                if guard is None or params["Key"] != self._key(name):
                    return
                if conditional:
                    params |= self._unchanged(name, guard)
                else:
                    guard()

            events = self.client.meta.events
            events.register(LAST, at_its_end)
            try:
                self.client.upload_file(
                    str(local), self.bucket, self._key(name), ExtraArgs=self.extra, Config=transfer
                )
            except S3UploadFailedError as error:  # it hides the store's answer
                raise error.__context__ or error from None
            finally:
                events.unregister(LAST, at_its_end)

        try:
            try:
                self._ask(f"write {name}", lambda: upload(self.conditional))
            except NotImplementedError:  # the store takes conditions on other requests alone
                self._ask(f"write {name}", lambda: upload(False))
        except (FileExistsError, StorageError) as error:
            # Sent again after its answer was lost, the last request meets what it made itself: the
            # object, or no upload any more.
            own = isinstance(error, FileExistsError) or _code(error) == "NoSuchUpload"
            if own and self._holds(name, local):
                return
            if guard is not None:
                guard()
            raise

    def _holds(self, name: str, local: Path) -> bool:
        """Return whether an object is the same as a local file."""

        def compare() -> bool:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name))
            if answer["ContentLength"] != local.stat().st_size:
                return False
            with open(local, "rb") as file:
                return all(c == file.read(len(c)) for c in answer["Body"].iter_chunks(LARGE))

        with suppress(FileNotFoundError):
            return self._ask(f"read {name}", compare)
        return False

    def get_file(self, name: str, local: Path) -> None:
        def download() -> None:
            try:
                self.client.download_file(self.bucket, self._key(name), str(local))
            except RetriesExceededError as error:  # it hides the cause
                raise error.last_exception from None

        self._ask(f"read {name}", download)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every object below a folder, by relative name."""
        top = self._folder(folder)

        def find() -> dict[str, int]:
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=top
            )
            return {
                entry["Key"][len(top) :]: entry["Size"]
                for page in pages
                for entry in page.get("Contents", ())
            }

        return self._ask(f"list {folder}", find)

    def names(self, folder: str) -> list[str]:
        """List objects and folders directly in a folder, sorted; nothing if it is missing."""
        top = self._folder(folder)

        def find() -> list[str]:
            found = []
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=top, Delimiter="/"
            ):
                found += [entry["Key"] for entry in page.get("Contents", ())]
                found += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
            return sorted(key[len(top) :].rstrip("/") for key in found)

        return self._ask(f"list {folder or 'it'}", find)

    def exists(self, name: str) -> bool:
        """Return whether there is such an object, or anything in a folder of that name."""
        try:
            self._ask(f"look for {name}", lambda: self._head(name))
            return True
        except FileNotFoundError:
            return bool(self.names(name))

    def age(self, name: str) -> float:
        """Return the seconds since the object was written, by the storage's own clock."""
        answer = self._ask(f"look for {name}", lambda: self._head(name))
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return (now - answer["LastModified"]).total_seconds()

    def remove(self, name: str, guard: Guard | None = None) -> None:
        """Remove an object, or a folder and its content, if it exists."""
        for each in [name, *(f"{name}/{below}" for below in self.sizes(name))]:

            def delete(condition: dict[str, str], each: str = each) -> None:
                if condition.keys() != {"IfNoneMatch"}:
                    where = {"Bucket": self.bucket, "Key": self._key(each)} | condition
                    self._ask(f"delete {each}", lambda: self.client.delete_object(**where))

            self._change(each, delete, guard, is_done=lambda: False)

    def alone(self, seconds: float) -> AbstractContextManager[None]:
        """Nothing: see above."""
        return nullcontext()

    def _change(
        self,
        name: str,
        request: Callable[[dict[str, str]], None],
        guard: Guard | None,
        is_done: Callable[[], bool],
    ) -> None:
        """Make a request, with a guard on the condition that nobody else changes the object."""
        if guard is None:
            return request({})
        for _ in range(TRIES if self.conditional else 0):
            try:
                return request(self._unchanged(name, guard))
            except FileExistsError:
                if is_done():
                    return None
            except FileNotFoundError:
                pass  # removed since
            except NotImplementedError:
                break
        guard()
        return request({})

    def _unchanged(self, name: str, guard: Guard) -> dict[str, str]:
        """Call the guard; return the condition that the object is as it was before."""
        condition = {"IfNoneMatch": "*"}
        with suppress(FileNotFoundError):
            found = self._ask(f"look for {name}", lambda: self._head(name))
            # Ceph wants the tag without its quotes, AWS takes it with and without.
            condition = {"IfMatch": found["ETag"].strip('"')}
        guard()
        return condition

    def sweep(self, seconds: float) -> list[str]:
        """Abort the uploads in pieces that killed processes left and that are older than this;
        return their names. Their pieces take room in the bucket, but are no objects."""
        top = self._folder("")

        def find() -> tuple[list[dict[str, Any]], datetime]:
            found, now = list[dict[str, Any]](), datetime.now(UTC)
            for page in self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=top
            ):
                found += page.get("Uploads", ())
                now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            return found, now

        try:
            uploads, now = self._ask("list uploads", find)
        except (StorageError, NotImplementedError):  # it is not allowed, or not offered
            return []
        old = [each for each in uploads if (now - each["Initiated"]).total_seconds() > seconds]
        swept = []
        for each in old:
            abort = partial(
                self.client.abort_multipart_upload,
                Bucket=self.bucket,
                Key=each["Key"],
                UploadId=each["UploadId"],
            )
            with suppress(FileNotFoundError, StorageError):  # it has just ended, or is not allowed
                self._ask(f"abort the upload of {each['Key']}", abort)
                swept.append(each["Key"][len(top) :])
        return sorted(swept)

    def _head(self, name: str) -> Any:
        return self.client.head_object(Bucket=self.bucket, Key=self._key(name))

    def _put(self, name: str, data: bytes, **condition: str) -> None:
        self.client.put_object(
            Bucket=self.bucket, Key=self._key(name), Body=data, **self.extra, **condition
        )

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _folder(self, folder: str) -> str:
        key = self._key(folder).strip("/")
        return f"{key}/" if key else ""

    def _ask(self, what: str, request: Callable[[], Result]) -> Result:
        """Make a request, and retry it while the store is in trouble."""
        began = time.monotonic()
        for attempt in itertools.count():
            try:
                return request()
            # HTTPError: urllib3's own, which botocore passes on (a damaged TLS record).
            except (failures.BotoCoreError, failures.ClientError, HTTPError) as error:
                if not is_passing(error) or time.monotonic() - began > self.patience:
                    raise self._refusal(what, error) from error
                # After some ten requests, with the client's own attempts. A check of a second or
                # two says nothing but its result.
                if attempt == 2 and self.patience > 10:
                    logger.warning(f"{self._refusal(what, error)}; retrying")
                time.sleep(random.random() * min(2**attempt, 20))
        raise AssertionError

    def _refusal(self, what: str, error: Exception) -> OSError | NotImplementedError:
        where = f"s3://{self.bucket}/{self.prefix}"
        code, status = answer_of(error)
        if code in ABSENT and not what.startswith(("write", "create")):
            return FileNotFoundError(f"{where}: {what}: missing")
        if code in ("PreconditionFailed", "412"):
            return FileExistsError(f"{where}: {what}: already exists")
        if code == "NotImplemented" or status == 501:
            return NotImplementedError(f"{where}: {what}: this store does not support it")
        return StorageError(f"{where}: cannot {what}: {explain(error, self.bucket, self.config)}")


def _code(error: Exception) -> str:
    """The store's error code of a refusal."""
    return answer_of(error.__cause__)[0] if isinstance(error.__cause__, Exception) else ""
