"""cluster.yaml against Ray's own schema, loader and AWS set-up; no call leaves the machine."""

import copy
import ipaddress
import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from ray.autoscaler._private import command_runner
from ray.autoscaler._private.aws import config as aws
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def prepared(raw):
    """As `ray up` sees it: merged with Ray's defaults for AWS."""
    return prepare_config(copy.deepcopy(raw))


@pytest.fixture
def no_aws(monkeypatch):
    def refuse(name, _config):
        raise AssertionError(f"Ray asked AWS for {name}")

    monkeypatch.setattr(aws, "_resource", refuse)
    monkeypatch.setattr(aws, "_client", refuse)


def all_strings(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from all_strings(key)
            yield from all_strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from all_strings(value)
    else:
        yield str(node)


def test_ray_accepts_it(prepared):
    validate_config(prepared)


def test_ray_refuses_a_misspelt_key(prepared):
    # Guards the test above: the schema does look at this file.
    prepared["idle_timeout_minute"] = 10
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepared)


def test_workers_start_from_zero_and_gpus_are_spot(raw, prepared):
    types = prepared["available_node_types"]
    workers = {name: t for name, t in types.items() if name != prepared["head_node_type"]}
    assert {name: t["min_workers"] for name, t in workers.items()} == {
        "cpu_worker": 0,
        "gpu_worker": 0,
    }
    assert all(t["max_workers"] > 0 for t in workers.values())
    assert sum(t["max_workers"] for t in workers.values()) <= prepared["max_workers"]
    assert types[prepared["head_node_type"]]["max_workers"] == 0
    assert 0 < raw["idle_timeout_minutes"] <= 30
    market = workers["gpu_worker"]["node_config"]["InstanceMarketOptions"]
    assert market == {"MarketType": "spot"}


def test_every_node_demands_imdsv2_and_encrypts_its_disk(prepared):
    for name, node_type in prepared["available_node_types"].items():
        node = node_type["node_config"]
        assert node["MetadataOptions"]["HttpTokens"] == "required", name
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"]), name


def test_nothing_is_open_to_the_world(prepared, no_aws):
    # Neither here nor in the group Ray makes for a node type without one (SSH from anywhere).
    for text in all_strings(prepared):
        for address in re.findall(r"[\d.]+/\d+|[\da-fA-F:]+::/\d+", text):
            assert ipaddress.ip_network(address, strict=False).prefixlen > 0, text
        assert "0.0.0.0" not in text and "::/0" not in text, text
    before = copy.deepcopy(prepared["available_node_types"])
    assert aws._configure_security_group(prepared)["available_node_types"] == before
    assert any(
        "0.0.0.0/0" in text for text in all_strings(aws._create_default_ssh_inbound_rules())
    ), "Ray's own group is no longer open: SecurityGroupIds need not be demanded any more"


def test_image_and_roles_are_given_for_every_node(prepared, no_aws):
    # Otherwise: an Ubuntu 18.04 image, and a role with full EC2 and S3 access for the head alone.
    before = copy.deepcopy(prepared["available_node_types"])
    aws._check_ami(prepared)
    aws._configure_iam_role(prepared)
    assert prepared["available_node_types"] == before
    images = {name: t["node_config"]["ImageId"] for name, t in before.items()}
    assert all(image.startswith("resolve:ssm:/aws/service/") for image in images.values())
    assert "nvidia-driver" in images["gpu_worker"]
    profiles = {name: t["node_config"]["IamInstanceProfile"]["Name"] for name, t in before.items()}
    assert profiles == {
        "head": "s2l-ray-head", "cpu_worker": "s2l-ray-worker", "gpu_worker": "s2l-ray-worker",
    }  # fmt: skip


def test_ray_start_does_not_inherit_the_launchers_single_thread(raw):
    # Ray gives each worker as many threads as it has CPUs, unless the variable is set already.
    assert "export OMP_NUM_THREADS=1" in " ".join(command_runner._with_interactive("true"))
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        (command,) = [each for each in raw[kind] if "ray start" in each]
        before, start = command.split("ray start")
        assert "unset OMP_NUM_THREADS;" in before and start


def test_every_ray_start_has_the_token(raw):
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [c for c in raw[kind] if "ray start" in c]
        assert "RAY_AUTH_MODE=token ray start" in start
    assert raw["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in raw["head_start_ray_commands"][-1]


def test_commands_parse_and_mounted_files_exist(prepared):
    commands = [c for key, value in prepared.items() if key.endswith("commands") for c in value]
    assert commands
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    for local in prepared["file_mounts"].values():
        if not local.startswith("~"):
            assert (ROOT / local).is_file(), local


def test_every_worker_watches_for_the_end_of_its_spot_node(raw):
    script = "/home/ubuntu/s2l-setup/spot_notice.py"
    assert raw["file_mounts"][script] == "s2l_ray/execution/spot_notice.py"
    start, watch = raw["worker_start_ray_commands"][-2:]
    assert "ray start" in start and "RAY_AUTH_MODE=token" in watch
    assert f"~/{script.removeprefix('/home/ubuntu/')} --address=$RAY_HEAD_IP:6379" in watch
    assert not any("spot_notice" in command for command in raw["head_start_ray_commands"])


def test_a_new_watcher_takes_the_place_of_the_old_one(tmp_path, raw):
    (tmp_path / "s2l-venv/bin").mkdir(parents=True)
    python = tmp_path / "s2l-venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@" >&2\nexec sleep 60\n')
    python.chmod(0o755)
    watch, watchers = raw["worker_start_ray_commands"][-1], []
    for _ in range(2):
        subprocess.run(  # returns at once, or `ray up` would wait
            ["bash", "-c", watch],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.1"},
            check=True, capture_output=True, timeout=10,
        )  # fmt: skip
        watchers.append(psutil.Process(int((tmp_path / "spot_notice.pid").read_text())))
    old, new = watchers
    try:
        assert psutil.wait_procs([old], timeout=10)[0] and new.is_running()
        end, log = time.monotonic() + 10, tmp_path / "spot_notice.log"
        while not log.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        assert log.read_text().endswith("/s2l-setup/spot_notice.py --address=10.0.0.1:6379\n")
    finally:
        new.kill()
