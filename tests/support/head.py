"""Commands in processes of their own, and a Ray head node for them."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

from s2l_ray.execution.connect import DRIVER_ENVIRONMENT

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def environment(**more):
    """This process's, without what would lead a command to another Ray or to another width than
    its terminal's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") and name not in ("COLUMNS", "LINES")
    }
    return kept | DRIVER_ENVIRONMENT | more


def command(name, *arguments, timeout=300, python=(), **env):
    return subprocess.run(
        [sys.executable, *python, f"jobs/{name}.py", *map(str, arguments)],
        cwd=REPOSITORY, env=environment(**env), text=True, capture_output=True, timeout=timeout,
    )  # fmt: skip


class Head:
    """A head node of our own, as `ray start --head` makes it, that asks for a token.

    node_types: those of worker nodes that Ray's autoscaler starts, as processes of this machine.
    """

    def __init__(self, folder, *, num_cpus=3, node_types=None):
        self.folder = folder
        self.token = folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)
        self.port, self.dashboard, client, agent = (free_port() for _ in range(4))
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        options, env = [], {}
        if node_types:
            config = folder / "autoscaling.yaml"
            config.write_text(yaml.safe_dump(autoscaling(self.address, num_cpus, node_types)))
            options = [f"--autoscaling-config={config}"]
            env = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        # As cluster.yaml does on its nodes: `python` in a job is the one with the packages.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            [
                RAY, "start", "--head", f"--num-cpus={num_cpus}", "--num-gpus=0", *options,
                f"--port={self.port}", f"--dashboard-port={self.dashboard}",
                "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1",
                f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
                "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder / 'ray'}",
                "--object-store-memory=200000000", "--disable-usage-stats",
            ],
            env=environment(**self.env, **env, PATH=path), check=True, capture_output=True,
            text=True, timeout=180,
        )  # fmt: skip

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def submit(self, *arguments, timeout=400, **env):
        return subprocess.run(
            [
                RAY, "job", "submit", "--address", f"http://127.0.0.1:{self.dashboard}",
                "--working-dir", ".", "--", *map(str, arguments),
            ],
            cwd=REPOSITORY, env=environment(**env), text=True, capture_output=True, timeout=timeout,
        )  # fmt: skip

    def stop(self):
        """End the processes that were started in our folder, by their ids."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._processes():
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    continue
            until = time.monotonic() + 5
            while self._processes() and time.monotonic() < until:
                time.sleep(0.2)
        assert not self._processes()

    def _processes(self):
        """Those whose command line or environment names our folder (workers change the former)."""
        mark, found = str(self.folder).encode(), []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                    continue
                if any(
                    mark in entry.joinpath(file).read_bytes() for file in ("cmdline", "environ")
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def autoscaling(address, num_cpus, node_types):
    """What `ray up` would make of a cluster.yaml whose nodes are processes of this machine."""
    head = "ray.head.default"  # the name that Ray's provider of such nodes expects
    commands = ("initialization_commands", "setup_commands", "head_setup_commands",
                "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
                "cluster_synced_files", "rsync_exclude", "rsync_filter")  # fmt: skip
    head_type = {"resources": {"CPU": num_cpus}, "node_config": {}, "max_workers": 0}
    return {name: [] for name in commands} | {
        "cluster_name": "test",
        "max_workers": sum(node_type["max_workers"] for node_type in node_types.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,  # all have one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": head,
        "available_node_types": {head: head_type} | node_types,
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
