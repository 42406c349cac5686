"""The section storage: how the object store is reached."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from s2l_ray.config.base import Section


class StorageConfig(Section):
    """How the object store of an s3:// run_dir or corpus is reached (addressing is the run_dir's).

    Credentials are no setting: they come from the standard chain of the AWS libraries alone.
    """

    endpoint: str | None = None  # http(s)://host:port; unset: AWS, or AWS_ENDPOINT_URL
    region: str | None = None  # unset: AWS_DEFAULT_REGION, or the profile's
    addressing: Literal["auto", "path", "virtual"] = "auto"  # of the bucket in URLs
    # when_required for stores that refuse or keep the checksums that clients add by themselves
    checksums: Literal["when_supported", "when_required"] = "when_supported"
    encryption: Literal["AES256", "aws:kms"] | None = None  # unset: the bucket's own
    kms_key: str | None = None
    lease_seconds: Annotated[int, Field(ge=3)] = 60  # a run that shows no life so long is dead

    def environment(self) -> dict[str, str]:
        """The same for libraries that ask the environment (pyarrow, where it reads a corpus)."""
        found = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": self.region}
        if self.checksums == "when_required":
            found["AWS_REQUEST_CHECKSUM_CALCULATION"] = self.checksums
        return {name: value for name, value in found.items() if value is not None}

    @model_validator(mode="after")
    def _sound(self) -> StorageConfig:
        if self.endpoint is not None and not re.fullmatch(r"https?://[^/@\s]+/?", self.endpoint):
            raise ValueError("endpoint: wanted http(s)://host or http(s)://host:port, no more")
        if self.kms_key is not None and self.encryption != "aws:kms":
            raise ValueError("kms_key goes with encryption: aws:kms")
        return self
