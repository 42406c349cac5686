"""cluster/kuberay-job.yaml and the Dockerfile against the repository, and against what Ray asks.

The manifest was checked against KubeRay's own schema when it was written; that schema has 25,000
lines and is not kept here.
"""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from ray._private import ray_constants
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION

from s2l_ray.config import load

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "cluster/Dockerfile").read_text().replace("\\\n", "")
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


@pytest.fixture
def documents():
    return list(yaml.safe_load_all((ROOT / "cluster/kuberay-job.yaml").read_text()))


@pytest.fixture
def job(documents):
    (job,) = [document for document in documents if document["kind"] == "RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    return job["spec"]


@pytest.fixture
def cluster(job):
    return job["rayClusterSpec"]


@pytest.fixture
def groups(cluster):
    """The head's group, then the workers'."""
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pod(group):
    return group["template"]["spec"]


def container(group):
    (only,) = pod(group)["containers"]
    return only


def gib(quantity):
    assert quantity.endswith("Gi"), quantity
    return int(quantity.removesuffix("Gi"))


def test_the_entrypoint_is_a_job_with_a_valid_configuration(job):
    python, script, config, *overrides = shlex.split(job["entrypoint"])
    assert python == "python" and (ROOT / script).is_file()
    assert not re.search(r"[$;&|<>*`]", job["entrypoint"])  # KubeRay hands it to a shell as it is
    assert load(str(ROOT / config), overrides).run_dir == "s3://my-bucket/my-prefix/410m"


def test_the_image_holds_what_the_job_takes_along(job, cluster):
    folder = yaml.safe_load(job["runtimeEnvYAML"])["working_dir"]
    assert re.findall(r"^WORKDIR (.+)$", DOCKERFILE, re.M) == [folder]
    copied = re.findall(r"^COPY (.+) (\S+)$", DOCKERFILE, re.M)
    for source, target in copied:
        assert all((ROOT / name).exists() for name in source.split()), source
        assert target in (source, "./")
    assert {"s2l_ray", "jobs", "configs"} <= {source for source, _ in copied}
    assert f"ray=={cluster['rayVersion']}\n" in CONSTRAINTS


def test_image_and_nodes_are_set_up_alike():
    setup = "\n".join(yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"])
    installs = [re.search(r"-r pyproject\.toml .*", text)[0] for text in (setup, DOCKERFILE)]
    assert installs[0] == installs[1]
    uv = [re.search(r"uv==\S+", text)[0].rstrip(")") for text in (setup, DOCKERFILE)]
    assert uv[0] == uv[1]
    python = re.search(r"with \(Python (\d\.\d+),", CONSTRAINTS)[1]
    assert f"ARG BASE=python:{python}-" in DOCKERFILE and f"--python {python}." in setup


def test_it_scales_from_zero_goes_when_idle_and_asks_for_a_token(job, cluster):
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 1800
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in cluster["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0) and group["maxReplicas"] > 0
    assert job["shutdownAfterJobFinishes"] is True
    # The dashboard is a service inside the cluster, with no way in from outside.
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "enableIngress" not in cluster["headGroupSpec"]


def test_pods_have_accounts_one_image_and_shared_memory(documents, groups):
    accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
    head, *workers = [pod(group)["serviceAccountName"] for group in groups]
    assert {head, *workers} == accounts and head not in workers  # KubeRay gives the head's rights
    assert len({container(group)["image"] for group in groups}) == 1
    for group in groups:
        resources = container(group)["resources"]
        assert resources["requests"] == resources["limits"]
        (volume,) = pod(group)["volumes"]
        assert container(group)["volumeMounts"] == [
            {"name": volume["name"], "mountPath": "/dev/shm"}
        ]
        assert volume["emptyDir"]["medium"] == "Memory"
        memory = gib(resources["limits"]["memory"])
        size = gib(volume["emptyDir"]["sizeLimit"])
        assert DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * memory < size < memory / 2
        assert "restartPolicy" not in pod(group)  # the autoscaler's second version sets Never


def test_workers_have_time_to_drain_before_they_are_killed(groups):
    _, *workers = groups
    for group in workers:
        env = {each["name"]: each["value"] for each in container(group)["env"]}
        seconds = float(env[DRAIN])
        # Less than the two minutes between a spot node's notice and its end.
        assert seconds > ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
        assert seconds < pod(group)["terminationGracePeriodSeconds"] < 120


def test_gpu_pods_are_tolerated_and_hold_what_the_configurations_ask_for(groups):
    *others, gpu = groups
    assert all("nvidia.com/gpu" not in container(group)["resources"]["limits"] for group in others)
    (toleration,) = pod(gpu)["tolerations"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    limits = container(gpu)["resources"]["limits"]
    stages = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        config = load(str(path))
        parts = (config.proxy, config.trajectories, config.target)
        stages += [part.workers for part in parts if part and part.workers.gpus_per_worker]
    assert stages
    for workers in stages:
        each = min(
            limits["nvidia.com/gpu"] // workers.gpus_per_worker,
            int(limits["cpu"]) // workers.cpus_per_worker,
        )
        assert each * gpu["maxReplicas"] >= workers.num_workers
