"""boto3 clients of the run's store."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

from s2l_ray.config import StorageConfig
from s2l_ray.config.credentials import credentials_fault

ATTEMPTS = 5  # of each request, by the client itself


def client(config: StorageConfig, *, attempts: int = ATTEMPTS, timeout: float = 60) -> Any:
    """Return a boto3 client of the run's store, one per process and configuration.

    Making one takes a tenth of a second, and each has its own connections.
    """
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):  # messages repeat them
        if fault := credentials_fault(environment.get(name)):
            raise ValueError(f"{name}: {fault}")
    return _client(config, attempts, timeout, frozenset(environment.items()))


@lru_cache(maxsize=8)
def _client(config: StorageConfig, attempts: int, timeout: float, environment: frozenset) -> Any:
    # The node's service for an instance role's credentials answers slowly while many processes
    # start. By default botocore asks it once, for a second.
    core = botocore.session.get_session()
    for name, value in (("num_attempts", 3), ("timeout", min(2, timeout / 3))):
        if core.get_config_variable(f"metadata_service_{name}") == 1:  # the default
            core.set_config_variable(f"metadata_service_{name}", value)
    return boto3.session.Session(botocore_session=core).client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=min(timeout, 10),
            read_timeout=timeout,
            max_pool_connections=32,
            s3={"addressing_style": config.addressing},
            request_checksum_calculation=config.checksums,
            response_checksum_validation=config.checksums,
        ),
    )
