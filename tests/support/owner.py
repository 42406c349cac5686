"""An owner of a run directory in a process of its own, for the tests of leases.

`python -m support.owner URI SECONDS` takes the lease and says `owns N`. Then each line of its input
is a JSON list: a method of Store and its arguments. It says `done`, or the error. A method that
begins with `!` is stopped (SIGSTOP) after it has checked the lease, before it changes anything.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys

import psutil

from s2l_ray.store import Part, Store
from s2l_ray.store.lease import Lease
from support.ceph import wait_for


class Owner:
    """The process, from outside."""

    def __init__(self, uri, seconds):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.owner", uri, str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self.process.pid

    def says(self):
        return self.process.stdout.readline().strip()

    def tell(self, *call):
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()

    def ask(self, *call):
        self.tell(*call)
        return self.says()

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def wait_until_stopped(self):
        wait_for(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    def kill(self):
        self.process.kill()
        self.process.communicate()


def stop_at_next_change(store, *, locked):
    """locked: in a folder, inside the lock, between the guard and the change; otherwise before."""

    def stop(*_, **__):
        if armed:
            armed.pop()
            os.kill(os.getpid(), signal.SIGSTOP)

    armed = [True]
    if not store.is_local:
        events = store.objects.client.meta.events
        for request in ("PutObject", "UploadPart", "DeleteObject"):
            events.register(f"before-send.s3.{request}", stop)
        return
    for module, name in [(os, "replace"), (os, "link")] if locked else [(fcntl, "flock")]:
        setattr(module, name, after(stop, getattr(module, name)))


def after(first, function):
    def both(*args, **kwargs):
        first()
        return function(*args, **kwargs)

    return both


def commit(store, folder, *files):
    parts = [Part(name, name, 0, *rest) for name, *rest in files]
    return store.commit(folder, "f", parts, {"by": os.getpid()})


def main():
    store = Store(sys.argv[1])
    lease = Lease(store, seconds=float(sys.argv[2]), job="raysubmit_1").take()
    print("owns", store.epoch, flush=True)
    for line in sys.stdin:
        method, *args = json.loads(line)
        if method.startswith("!"):  # a renewal would be stopped first
            lease.over.set()
            lease.news.set()
            lease.thread.join()
            stop_at_next_change(store, locked=method.startswith("!!"))
        try:
            name = method.strip("!")
            commit(store, *args) if name == "commit" else getattr(store, name)(*args)
            print("done", flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    lease.release()


if __name__ == "__main__":
    main()
