"""The files of leases (lease.py), and the check of the lease before anything is written.

`lease/00000007.json` is the seventh lease; the highest number owns the run directory. Other files
in `lease/` mean nothing.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import LeaseLost

if TYPE_CHECKING:
    from s2l_ray.store.store import Store

FIELDS: dict[str, tuple[type, ...]] = {
    "owner": (str,),
    "host": (str,),
    "job": (str,),
    "pid": (int,),
    "since": (str,),
    "seconds": (int, float),
    "released": (bool,),
}
MAYBE: dict[str, tuple[type, ...]] = {"kernel": (str,), "run": (dict,)}  # or missing, or null


def lease_name(number: int) -> str:
    return f"{number:08d}.json"


def newest_lease(store: Store) -> int:
    """Return the highest number of a lease; 0 if there is none."""
    found = (re.fullmatch(r"([0-9]{8,})\.json", name) for name in store.names("lease"))
    return max((int(match[1]) for match in found if match), default=0)


def owner_in(data: bytes) -> dict[str, Any]:
    """Read a lease's file. ValueError says what is wrong with it."""
    if not data.strip():
        raise ValueError("expected a lease, found an empty file")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"expected a lease, found {data[:20]!r}, which is not JSON") from None
    if not isinstance(record, dict):
        raise ValueError(f"expected a lease, found {str(record)[:40]!r}")
    for name, kinds in FIELDS.items():
        if name not in record:
            raise ValueError(f"expected a lease, but it has no {name!r}")
        _check(name, record[name], kinds)
    for name, kinds in MAYBE.items():
        if record.get(name) is not None:
            _check(name, record[name], kinds)
    if not 0 < record["pid"] < 2**31:
        raise ValueError(f"pid: expected the number of a process, found {record['pid']}")
    if not (record["seconds"] > 0 and math.isfinite(record["seconds"])):
        raise ValueError(f"seconds: expected a number above 0, found {record['seconds']}")
    return record


def last_owner(store: Store) -> tuple[dict[str, Any], float]:
    """Return the newest lease, {} if there is none, and its age in seconds. ValueError if it is
    damaged."""
    number = newest_lease(store)
    if not number:
        return {}, 0.0
    name = lease_name(number)
    try:
        owner = owner_in(store.read_bytes("lease", name))
    except ValueError as error:
        where, what = store.address("lease", name), "a run that is alive writes it again"
        raise ValueError(
            f"{where}: damaged: {error}; {what}; if no run is alive, remove it"
        ) from None
    return owner, store.objects.age(f"lease/{name}")


def _check(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    if type(value) not in kinds:
        raise ValueError(f"{name}: expected {kinds[0].__name__}, found {str(value)[:40]!r}")


def described(owner: dict[str, Any]) -> str:
    """Name an owner: where it runs, or ran."""
    return f"host {owner['host']}, job {owner['job']}, process {owner['pid']}"


def check_owner(store: Store) -> None:
    """Raise LeaseLost unless the process that this store was opened for owns the run directory."""
    assert store.epoch is not None
    newest, over = newest_lease(store), "it stops and commits nothing more"
    if newest > store.epoch:
        try:
            owner = owner_in(store.read_bytes("lease", lease_name(newest)))
            who = f"{described(owner)}, since {owner['since']}"
        except (FileNotFoundError, ValueError):
            who = f"whose lease, {lease_name(newest)}, is damaged"
        raise LeaseLost(
            f"{store.uri}: taken over by another run ({who}), because this run had not renewed its "
            f"lease; {over}"
        )
    if store.owner is None:
        return
    name = lease_name(store.epoch)
    try:
        owner = owner_in(store.read_bytes("lease", name))
    except FileNotFoundError:
        raise LeaseLost(
            f"{store.address('lease', name)}: missing: the lease of this run was removed while it "
            f"ran, and another run could begin; {over}. Start it again to continue"
        ) from None
    except ValueError:  # not another owner's, which is whole: the next renewal writes it again
        return
    if owner["owner"] != store.owner:
        raise LeaseLost(
            f"{store.uri}: the lease of this run was removed while it ran, and another run has "
            f"begun ({described(owner)}, since {owner['since']}); {over}"
        )
