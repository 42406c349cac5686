"""Tell Ray when AWS is about to take this spot node away.

    python -m s2l_ray.execution.spot_notice --address HEAD:6379

Runs beside a node's Ray and asks the instance metadata service (IMDSv2) every few seconds. On an
interruption notice, two minutes before the end, or a rebalance recommendation, it drains the node:
Ray starts nothing new there, and a training writes a resume point. cluster.yaml starts it on every
worker node, as a file alone: it imports nothing of this package.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

logger = logging.getLogger("spot_notice")

SERVICE = "http://169.254.169.254"
TOKEN_SECONDS = 21600
TIMEOUT = 2.0
EVERY = 5.0  # as AWS recommends


class Notice(NamedTuple):
    why: str
    seconds: float | None  # until the end; None: AWS does not say


class Metadata:
    """A client of the instance metadata service: AWS_EC2_METADATA_SERVICE_ENDPOINT, or AWS's."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        given = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or SERVICE
        self.endpoint, self.token = given.rstrip("/"), ""

    def notice(self) -> Notice | None:
        """Return what AWS announces, if anything. OSError if the service does not answer."""
        if found := self._get("spot/instance-action"):
            told = json.loads(found)
            seconds = (_time(told["time"]) - datetime.now(UTC)).total_seconds()
            return Notice(f"AWS will {told['action']} this instance", max(0.0, seconds))
        if self._get("events/recommendations/rebalance"):
            return Notice("AWS recommends leaving this instance", None)
        return None

    def _get(self, path: str) -> str | None:
        """Return an item, or None if there is none. The token is fetched again once it is old."""
        for attempt in range(2):
            if not self.token:
                ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                self.token = self._ask("PUT", "api/token", ttl)
            try:
                return self._ask(
                    "GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self.token}
                )
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or attempt:
                    raise
                self.token = ""
        raise AssertionError

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        url = f"{self.endpoint}/latest/{path}"
        request = urllib.request.Request(url, headers=headers, method=method)
        # No proxy: the service is on the machine's own link.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT) as answer:
            return answer.read().decode()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def watch(metadata: Metadata, drain: Callable[[Notice], None], every: float = EVERY) -> None:
    """Wait for a notice and drain the node. After a rebalance recommendation, wait on for the end,
    whose time it does not tell."""
    drained: Notice | None = None
    silent = False
    while True:
        try:
            notice = metadata.notice()
            silent = False
        except (OSError, ValueError, LookupError) as error:
            notice = None
            if not silent:
                logger.warning("%s: %s; asking on", metadata.endpoint, error)
            silent = True
        if notice and (drained is None or (drained.seconds is None and notice.seconds is not None)):
            try:
                drain(notice)
                drained = notice
                logger.warning("%s; the node is drained", notice.why)
            except Exception as error:  # of Ray: the head may be busy, or gone
                logger.warning("%s, but Ray was not told: %s; trying again", notice.why, error)
        if drained and drained.seconds is not None:
            return
        time.sleep(every)


def drain_node(address: str, node_ip: str, notice: Notice) -> None:
    """Drain the Ray nodes at an IP address, as `ray drain-node` does."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2, gcs_pb2

    client = GcsClient(address=address)
    here = [
        node_id.hex()
        for node_id, node in client.get_all_node_info().items()
        if node.node_manager_address == node_ip and node.state == gcs_pb2.GcsNodeInfo.ALIVE
    ]
    if not here:
        raise LookupError(f"Ray at {address} has no node {node_ip}")
    deadline = 0 if notice.seconds is None else round((time.time() + notice.seconds) * 1000)
    reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    for node in here:
        accepted, refused = client.drain_node(node, reason, notice.why, deadline)
        if not accepted:
            raise RuntimeError(refused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS"), help="HEAD:PORT; default: RAY_ADDRESS"
    )
    parser.add_argument("--node-ip", help="of this node; default: as Ray finds it")
    arguments = parser.parse_args()
    if not arguments.address:
        parser.error("--address: missing, and RAY_ADDRESS is not set; expected HEAD:PORT")
    from ray.util import get_node_ip_address

    logging.basicConfig(format="%(asctime)s %(message)s")
    node_ip = arguments.node_ip or get_node_ip_address()
    watch(Metadata(), lambda notice: drain_node(arguments.address, node_ip, notice))


if __name__ == "__main__":
    main()
