"""One owner of a run directory at a time.

`lease/00000007.json` is the seventh lease. The highest number owns the run; whoever creates the
next file becomes the owner. The owner renews its lease by rewriting its file. The next process may
follow once a lease has not been renewed for its length, by the storage's own clock. The file also
says what the owner is doing (`tell`), for `s2l-ray status`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s2l_ray.store.store import Store, lease_name, lease_number

logger = logging.getLogger(__name__)

RENEWALS = 6  # during the length of a lease
PAUSE = 3.0  # seconds at least between two writes of a lease's file
SETTLE = 3.0  # seconds that a rival has to show up, on a store without conditional writes


class Lease:
    """`Lease(store, seconds=60).take()`, then `release()`. Sets store.epoch, which guards commits.

    `take` waits for the lease of a dead owner to end. It raises ValueError if the owner is alive,
    with its host, job and start.
    """

    def __init__(self, store: Store, *, seconds: float, job: str = "") -> None:
        self.store, self.seconds = store, seconds
        self.record = {
            "owner": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "kernel": _kernel(),
            "job": job or "none",
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": seconds,
            "released": False,
            "run": None,
        }
        self.over, self.news = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> Lease:
        while True:
            number = max(map(lease_number, self.store.names("lease")), default=0)
            if number:
                self._wait_for_end(number)
            self.number = number + 1
            self.name = f"lease/{lease_name(self.number)}"
            if self.store.objects.create(self.name, self._text()) and self._is_mine():
                break
        self.store.epoch = self.number
        self.thread.start()
        return self

    def tell(self, run: dict[str, Any]) -> None:
        """Say what the owner is doing, as JSON: in the lease's file within a few seconds."""
        self.record["run"] = run
        self.news.set()

    def release(self) -> None:
        self.over.set()
        self.news.set()
        self.thread.join()
        self.record["released"] = True
        with suppress(OSError):  # the store does not answer: the lease will expire
            self.store.objects.write(self.name, self._text())

    def _wait_for_end(self, number: int) -> None:
        """Return when the lease has ended; raise ValueError once its owner has renewed it."""
        name, said = f"lease/{lease_name(number)}", False
        owner = self._read(name)
        first = self.store.objects.age(name)
        while not owner["released"] and not is_dead_here(owner):
            age = self.store.objects.age(name)
            if age > owner["seconds"]:
                return
            whose = f"host {owner['host']}, job {owner['job']}, process {owner['pid']}"
            if age < first:
                raise ValueError(
                    f"run_dir: {self.store.uri} is in use by another run ({whose}), since "
                    f"{owner['since']}"
                )
            if not said:
                said = True
                logger.warning(
                    f"{self.store.uri} was in use {age:.0f} s ago ({whose}); waiting up to "
                    f"{owner['seconds'] - age:.0f} s to see whether that run is alive"
                )
            first = age
            time.sleep(min(1.0, self.seconds / 10))
            owner = self._read(name)

    def _is_mine(self) -> bool:
        if self.store.objects.conditional:
            return True
        time.sleep(SETTLE)  # of two simultaneous writers the last one stays, and both see it
        return bool(self._read(self.name)["owner"] == self.record["owner"])

    def _read(self, name: str) -> Any:
        return self.store.read_json(name)

    def _text(self) -> bytes:
        return json.dumps(self.record).encode()

    def _renew(self) -> None:
        longest = self.seconds / RENEWALS
        while not self.over.wait(min(PAUSE, longest)):
            self.news.wait(max(0.0, longest - PAUSE))
            self.news.clear()
            if self.over.is_set():
                return
            with suppress(OSError):  # no answer; a new owner shows at the next commit
                self.store.objects.write(self.name, self._text())


def is_dead_here(owner: dict[str, Any]) -> bool:
    """Return whether the owner was a process of this machine that has ended."""
    if owner["kernel"] is None or owner["kernel"] != _kernel():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _kernel() -> str | None:
    """Identify the running system and its process namespace; None if that is impossible."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
