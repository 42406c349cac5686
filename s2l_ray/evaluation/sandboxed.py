"""The inside of the sandbox: runs programs, each in a process of its own. Standard library only.

sandbox.py starts this file as the first process of new namespaces, with a request in JSON on its
standard input. A line of JSON per program comes back on the standard output. The processes:

- the server imports the allowed modules, then moves to a root that has only the Python library;
- a keeper per program gives it a PID and IPC namespace, and kills it at a limit;
- the program, without privileges, further processes, or anything to write to or to signal.

The limits on imports and built-in functions are for clear failures only. Python code can get around
them; it cannot get around the process.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import importlib
import io
import json
import os
import random
import resource
import select
import signal
import struct
import sys
import time
from typing import Any, NoReturn

NEW_IPC, NEW_PID = 0x08000000, 0x20000000  # <sched.h>
READ_ONLY, REMOUNT, BIND, RECURSIVE = 0x1, 0x20, 0x1000, 0x4000  # <sys/mount.h>
KEPT_FLAGS = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec: a user namespace may not drop them
SET_DUMPABLE, SET_NO_NEW_PRIVILEGES = 4, 38  # <sys/prctl.h>
SET_PARENT_DEATH_SIGNAL = 1
CAPABILITY_VERSION = 0x20080522  # <linux/capability.h>

# Denied system calls, by machine: its AUDIT_ARCH of <linux/audit.h>, then the numbers of
# - shmget, semget, msgget, vmsplice: memory that RLIMIT_AS does not count;
# - socket, socketpair, add_key, request_key, keyctl: no namespace separates all of these;
# - io_uring_setup, bpf, userfaultfd, perf_event_open: no program needs them;
# - clone, clone3, fork, vfork (aarch64 has the first two): RLIMIT_NPROC does not hold for root.
DENIED = {
    "x86_64": (0xC000003E, 29, 64, 68, 278, 41, 53, 248, 249, 250, 425, 321, 323, 298,
               56, 435, 57, 58),
    "aarch64": (0xC00000B7, 194, 190, 186, 75, 198, 199, 217, 218, 219, 425, 280, 282, 241,
                220, 435),
}  # fmt: skip
LOAD, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # <linux/filter.h>
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data of <linux/seccomp.h>
ALLOW, EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000
X32 = 0x40000000  # the same calls of x86_64 have other numbers from here on
SET_SECCOMP, FILTER = 22, 2

NEW_ROOT = "/proc"  # every machine has it, and no library is below it
NOBODY = 65534
OPEN_FILES = 16  # for imports
FORBIDDEN = ("open", "input", "breakpoint")

READY = b"+"  # precedes the output: the program has begun, with nothing left to misuse
ENDED = {0: None, 1: "error", 2: "memory"}  # exit status -> why a program has no result

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)  # nobody must be able to read the new root
    request = json.load(sys.stdin)
    if (machine := os.uname().machine) not in DENIED:
        sys.exit(f"its processor is {machine}, expected {' or '.join(DENIED)}")
    for kind, outside in request["namespaces"].items():
        if os.readlink(f"/proc/self/ns/{kind}") == outside:
            sys.exit(f"the namespace {kind} is that of the caller")
    sys.path += request["folders"]
    for name in request["modules"]:
        importlib.import_module(name)
    with open("/proc/self/statm") as file:
        request["memory"] += int(file.read().split()[0]) * resource.getpagesize()
    request["null"] = os.open(os.devnull, os.O_RDWR)
    _move(NEW_ROOT, _apart([os.path.dirname(os.__file__), *request["libraries"]]))
    for program in request["programs"]:
        print(_kept(program, request), flush=True)


def _apart(folders: list[str]) -> list[str]:
    """Return the folders that are not below another one: without a virtual environment, packages
    lie below the standard library."""
    return [each for each in folders if not any(each.startswith(f"{other}/") for other in folders)]


def _move(root: str, libraries: list[str]) -> None:
    """Move to a root that has the libraries only: modules import parts of themselves when a
    function is called first. All of it is read-only."""
    _mount("tmpfs", root, 0, "tmpfs", b"size=1m,mode=755")
    for folder in libraries:
        os.makedirs(root + folder)
        _mount(folder, root + folder, BIND | RECURSIVE)
    for folder in (*libraries, ""):
        kept = os.statvfs(root + folder).f_flag & KEPT_FLAGS
        _mount(None, root + folder, BIND | REMOUNT | READ_ONLY | kept)
    os.chroot(root)
    os.chdir("/")


def _mount(
    source: str | None, target: str, flags: int, kind: str = "", options: bytes | None = None
) -> None:
    names = (None if source is None else os.fsencode(source)), os.fsencode(target), kind.encode()
    _call("mount", *names, ctypes.c_ulong(flags), options)


def _kept(program: str, limits: dict[str, Any]) -> str:
    """Let a keeper run the program; return what the keeper says, in JSON."""
    inner, outer = os.pipe()
    if not (keeper := os.fork()):
        told: dict[str, str | None] = {"fault": "the keeper has failed"}
        try:
            told = _run(program, limits)
        except OSError as error:
            told = {"fault": str(error)}
        finally:
            with open(outer, "w") as pipe:
                json.dump(told, pipe)
            os._exit(0)
    os.close(outer)
    with open(inner) as pipe:
        said = pipe.read()
    if os.waitpid(keeper, 0)[1]:  # the machine or its container ran out of memory
        said = json.dumps({"output": "", "why": "memory"})
    return said


def _run(program: str, limits: dict[str, Any]) -> dict[str, str | None]:
    _call("unshare", NEW_PID | NEW_IPC)
    inner, outer = os.pipe()
    if not (child := os.fork()):
        _confined(program, limits, outer)
    os.close(outer)
    output, why, deadline = b"", None, time.monotonic() + limits["wall_seconds"]
    while not why:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([inner], [], [], left)[0]:
            why = "time"
        elif not (some := os.read(inner, 65536)):
            break
        elif len(output := output + some) > limits["output"]:
            why = "output"
    os.kill(child, signal.SIGKILL)  # it may have closed its output and gone on
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if why is None and not output.startswith(READY):
        return {"fault": "a process could not give up its rights"}
    if why is None:
        why = "time" if status == -signal.SIGKILL else ENDED.get(status, "error")
    return {"output": output.removeprefix(READY).decode("utf-8", "replace"), "why": why}


def _confined(program: str, limits: dict[str, Any], output: int) -> NoReturn:
    """Give up everything, then run the program; end the process with a status of ENDED."""
    status = 1
    try:
        for target, source in ((0, limits["null"]), (1, output), (2, limits["null"])):
            os.dup2(source, target)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        if limits["root"]:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        _call("prctl", SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        _call("prctl", SET_DUMPABLE, 0, 0, 0, 0)
        _call("prctl", SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        _call("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)())
        for name, most in (
            ("AS", limits["memory"]), ("CPU", limits["seconds"]), ("CORE", 0), ("FSIZE", 0),
            ("MEMLOCK", 0), ("MSGQUEUE", 0), ("NOFILE", OPEN_FILES), ("NPROC", 0),
        ):  # fmt: skip
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
        _deny_calls()
        _write(READY)
        printed = _printed(program, frozenset(limits["allowed"]))
        _write(printed.encode("utf-8", "replace")[: limits["output"] + 1])
        status = 0
    except MemoryError:
        status = 2
    finally:
        os._exit(status)


def _deny_calls() -> None:
    """Let the system calls of DENIED fail with EPERM, for good."""
    architecture, *numbers = DENIED[os.uname().machine]
    checks = [(IF_AT_LEAST, X32), *((IF_EQUAL, number) for number in numbers)]
    instructions = [  # (what, how many to skip if so, and if not, value)
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        *((what, len(checks) - place, 0, value) for place, (what, value) in enumerate(checks)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *it) for it in instructions))
    given = struct.pack("HP", len(instructions), ctypes.addressof(code))
    _call("prctl", SET_SECCOMP, FILTER, given, 0, 0)


def _printed(program: str, allowed: frozenset[str]) -> str:
    """Run the program; return what it prints, or else the value of its variable `ans`."""
    given = {name: value for name, value in vars(builtins).items() if name not in FORBIDDEN}

    def limited(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] not in allowed | {"_strptime"}:  # datetime asks for it here
            raise ImportError(f"{name} is not among {', '.join(sorted(allowed))}")
        return __import__(name, *args, **kwargs)

    def ended(code: object = None) -> NoReturn:
        raise SystemExit(code)

    given |= {"__import__": limited, "exit": ended, "quit": ended}  # of the module site, left out
    scope: dict[str, Any] = {
        "__builtins__": given,
        "__name__": "__main__",
    }
    random.seed(0)  # so that an answer is the same each time
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        exec(compile(program, "<program>", "exec"), scope)
    if not (printed := out.getvalue()).strip() and "ans" in scope:
        printed = str(scope["ans"])
    return printed


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _call(name: str, *args: Any) -> None:
    if getattr(libc, name)(*args):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
