"""A real S3 for the tests: Ceph's RADOS gateway on 127.0.0.1, one monitor, one disk in memory.

Needs Debian's packages radosgw, ceph-mon, ceph-osd and ceph-common.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

PACKAGES = "radosgw ceph-mon ceph-osd ceph-common"
CONF = """[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
admin socket = {folder}/run/$name.$pid.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
run dir = {folder}/run
crash dir = {folder}/run
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 1
mon data avail warn = 2
[mon]
mon data = {folder}/mon
mgr initial modules =
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd max object name len = 1024
[client]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dns name =
rgw enable usage log = false
rgw thread pool size = 64
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}=QWxsIHRoZSBrZXlzIGFyZSBtYWRlIGhlcmUgYnkgaGE=
"""
KMS_KEY = "key-of-the-tests"  # known to the gateway's own key store


class Ceph:
    """`endpoint`, `access_key` and `secret_key` of a running gateway; pause and resume it."""

    def __init__(self, folder):
        missing = [name for name in ("radosgw", "ceph-mon", "ceph-osd") if not shutil.which(name)]
        assert not missing, f"{missing} not found: apt-get install {PACKAGES}"
        self.folder, port = Path(folder), free_port()
        for name in ("mon", "osd", "run", "log", "rgw"):
            (self.folder / name).mkdir(parents=True)
        self.conf = self.folder / "ceph.conf"
        fsid, osd, mon = uuid.uuid4(), uuid.uuid4(), free_port()
        self.conf.write_text(
            CONF.format(fsid=fsid, mon=mon, port=port, folder=self.folder, kms_key=KMS_KEY)
        )
        self.port, self.endpoint = port, f"http://127.0.0.1:{port}"
        monmap = self.folder / "monmap"
        self._run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a",
                  f"[v1:127.0.0.1:{mon}]", monmap)  # fmt: skip
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._run("ceph-mon", "-i", "a")
        self._run("ceph", "--connect-timeout", "20", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._run("ceph-osd", "-i", "0")
        wait_for(lambda: "1 up" in self._run("ceph", "osd", "stat"))
        self.resume()
        user = json.loads(
            self._run(
                "radosgw-admin",
                "-n",
                "client.rgw",
                "user",
                "create",
                "--uid=s2l",
                "--display-name=s2l",
                "--gen-access-key",
                "--gen-secret",
            )
        )
        self.access_key = user["keys"][0]["access_key"]
        self.secret_key = user["keys"][0]["secret_key"]

    @property
    def environment(self):
        """What a client of the store finds in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def pause(self):
        """Stop the gateway; the data stays."""
        self._kill("client.rgw")

    def resume(self):
        self._run("radosgw", "-n", "client.rgw")
        wait_for(self.answers, seconds=60)

    def stop(self):
        for name in ("client.rgw", "osd.0", "mon.a"):
            self._kill(name)

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _kill(self, name):
        file = self.folder / "run" / f"{name}.pid"
        if not file.exists():
            return
        pid = int(file.read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        file.unlink(missing_ok=True)

    def _run(self, *command):
        for _ in range(50):
            done = subprocess.run(
                [str(word) for word in command],
                env=os.environ | {"CEPH_CONF": str(self.conf)},
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            if done.returncode == 0:
                return done.stdout
            # A client that asks the monitor before it has learnt the cluster's id is turned away.
            if "wrong fsid" not in done.stderr and "EPERM" not in done.stderr:
                break
            time.sleep(0.2)
        raise AssertionError(f"{command}: {done.stderr or done.stdout}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.1)


if __name__ == "__main__":
    ceph = Ceph(sys.argv[1])
    print(json.dumps(ceph.environment))
