"""The section storage: how the object store is reached."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from s2l_ray.config.base import Section

LONGEST_LEASE = 3600  # seconds


class StorageConfig(Section):
    """How the object store of an `s3://` run_dir or corpus is reached.

    Credentials are not a setting: they come from the standard chain of the AWS libraries.
    """

    endpoint: str | None = Field(
        None,
        description="Address of the store, `http(s)://host:port`. `null` means AWS, or "
        "`AWS_ENDPOINT_URL` if it is set.",
    )
    region: str | None = Field(
        None,
        description="Region of the bucket. `null` means `AWS_DEFAULT_REGION` or the profile's "
        "region.",
    )
    addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where the run_dir's bucket stands in URLs: in the `path`, in the host name "
        "(`virtual`), or `auto`. It does not apply to the corpus.",
    )
    checksums: Literal["when_supported", "when_required"] = Field(
        "when_supported",
        description="When clients add checksums to requests. Set `when_required` for stores that "
        "refuse them or store them as content.",
    )
    encryption: Literal["AES256", "aws:kms"] | None = Field(
        None,
        description="Server-side encryption of what the run writes. `null` leaves it to the "
        "bucket.",
    )
    kms_key: str | None = Field(
        None,
        description="Id of the KMS key for `encryption: aws:kms`. `null` means the account's "
        "default key.",
    )
    lease_seconds: Annotated[int, Field(ge=3, le=LONGEST_LEASE)] = Field(
        60,
        description="Seconds without a sign of life after which another run may take over the "
        "run_dir.",
    )

    def environment(self) -> dict[str, str]:
        """Return these settings as environment variables, for pyarrow, which reads the corpus."""
        found = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": self.region}
        if self.checksums == "when_required":
            found["AWS_REQUEST_CHECKSUM_CALCULATION"] = self.checksums
        return {name: value for name, value in found.items() if value is not None}

    @model_validator(mode="after")
    def _sound(self) -> StorageConfig:
        if self.endpoint is not None and not re.fullmatch(r"https?://[^/@\s]+/?", self.endpoint):
            raise ValueError("endpoint: expected http(s)://host or http(s)://host:port")
        if self.kms_key is not None and self.encryption != "aws:kms":
            raise ValueError("kms_key needs encryption: aws:kms")
        return self
