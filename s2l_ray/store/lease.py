"""One owner of a run directory at a time.

`lease/00000007.json` is the seventh lease. The highest number owns the run; whoever creates the
next file becomes the owner. The owner renews its lease by rewriting its file, each time with other
content. The next process may follow once it has seen no new content for the length of the lease, by
its own clock: other clocks may be wrong. The file also says what the owner is doing (`tell`), for
`s2l-ray status`.
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

from s2l_ray.config import LONGEST_LEASE
from s2l_ray.errors import LeaseLost
from s2l_ray.store.owner import described, lease_name, newest_lease, owner_in
from s2l_ray.store.store import Store

logger = logging.getLogger(__name__)

RENEWALS = 6  # during the length of a lease
PAUSE = 3.0  # seconds at least between two writes of a lease's file
SETTLE = 3.0  # seconds that a rival has to show up, on a store without conditional writes
# The share of a lease that a waiting process watches in any case, even if the lease is long over by
# the storage's clock: an owner that is alive renews its lease twice meanwhile.
WATCHED = 2 / RENEWALS
TOLD = 15.0  # seconds between two messages of a process that waits
UNKNOWN = 60.0  # seconds at least that the owner of a damaged lease has to write it again


class Lease:
    """`Lease(store, seconds=60).take()`, then `release()`. Sets store.epoch and store.owner, which
    guard what this process and its workers write.

    `take` waits for the lease of a dead owner to end, for the length of that lease at most. It
    raises ValueError if the owner is alive, with its host, job and start.
    """

    def __init__(self, store: Store, *, seconds: float, job: str = "") -> None:
        self.store, self.seconds = store, seconds
        self.record: dict[str, Any] = {
            "owner": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "kernel": _kernel(),
            "job": job or "none",
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": seconds,
            "renewed": 0,  # times
            "released": False,
            "run": None,
        }
        self.over, self.news = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> Lease:
        while True:
            number = newest_lease(self.store)
            if number:
                self._wait_for_end(number)
            self.number = number + 1
            self.name = f"lease/{lease_name(self.number)}"
            with self.store.objects.alone(self.seconds):
                created = self.store.objects.create(self.name, self._text())
            if created and self._is_mine():
                break
        self.store.epoch, self.store.owner = self.number, self.record["owner"]
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
        self._write()

    def _wait_for_end(self, number: int) -> None:
        """Return when the lease has ended; raise ValueError once its owner has renewed it."""
        name, told = f"lease/{lease_name(number)}", None
        first, began = self._read(name), time.monotonic()
        while True:
            now = time.monotonic()  # before the look: this process may be paused after it
            data = self._read(name)
            if data is None or first is None:  # removed: it owns nothing
                return
            try:
                owner = owner_in(data)
                whose, since = described(owner), f", since {owner['since']}"
                seconds = min(owner["seconds"], LONGEST_LEASE)
                if owner["released"] or is_dead_here(owner):
                    return
            except ValueError as error:
                whose, since = f"{self.store.address(name)} is damaged: {error}", ""
                seconds = max(self.seconds, UNKNOWN)
            if data != first:
                raise ValueError(
                    f"run_dir: {self.store.uri} is in use by another run ({whose}){since}"
                )
            silent = now - began
            with suppress(FileNotFoundError):  # the next look finds that it was removed
                left = seconds - max(silent, self.store.objects.age(name))
                left = max(left, WATCHED * seconds - silent)
                if left <= 0:
                    return
                if told is None:
                    logger.warning(
                        f"{self.store.uri}: another run may be alive ({whose}); waiting up to "
                        f"{left:.0f} s for a sign of life. If you know that none is alive, "
                        f"remove {self.store.address(name)} to go on at once"
                    )
                    told = now
                elif now - told >= TOLD:
                    logger.warning(f"{self.store.uri}: no sign of life yet, {left:.0f} s left")
                    told = now
            time.sleep(min(1.0, self.seconds / 10))

    def _is_mine(self) -> bool:
        if self.store.objects.conditional:
            return True
        time.sleep(SETTLE)  # of two simultaneous writers the last one stays, and both see it
        try:
            self._check_mine()
        except (FileNotFoundError, LeaseLost):
            return False
        return True

    def _check_mine(self) -> None:
        """Raise FileNotFoundError or LeaseLost if the lease's file is no longer this owner's."""
        data = self.store.objects.read(self.name)
        with suppress(ValueError):  # damaged: it is written again
            if owner_in(data)["owner"] != self.record["owner"]:
                raise LeaseLost(f"{self.store.address(self.name)}: another owner's")

    def _read(self, name: str) -> bytes | None:
        try:
            return self.store.objects.read(name)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            return b""

    def _text(self) -> bytes:
        return json.dumps(self.record).encode()

    def _write(self) -> None:
        """Rewrite the file, unless it is gone or another's; the next commit finds that out."""
        self.record["renewed"] += 1
        with suppress(OSError):  # no answer; if it stays away, the lease ends
            self._check_mine()
            self.store.objects.write(self.name, self._text(), self._check_mine)

    def _renew(self) -> None:
        longest = self.seconds / RENEWALS
        while not self.over.wait(min(PAUSE, longest)):
            self.news.wait(max(0.0, longest - PAUSE))
            self.news.clear()
            if self.over.is_set():
                return
            self._write()


def is_dead_here(owner: dict[str, Any]) -> bool:
    """Return whether the owner was a process of this machine that has ended."""
    if owner.get("kernel") is None or owner["kernel"] != _kernel():
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
