"""cluster/iam-*.json against what Ray's own AWS code asks of EC2; no call leaves the machine."""

import fnmatch
import json
import re
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "111122223333"
S3_ACTIONS = {
    "s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload",
}  # fmt: skip
# Describe calls know no resources: AWS takes "*" alone.
WITHOUT_RESOURCES = {"ec2:DescribeInstances"}


def statements(role):
    document = json.loads((ROOT / f"cluster/iam-{role}.json").read_text())
    assert document.keys() == {"Version", "Statement"} and document["Version"] == "2012-10-17"
    return document["Statement"]


def listed(value):
    return [value] if isinstance(value, str) else value


def actions(role):
    return {action for one in statements(role) for action in listed(one["Action"])}


def with_action(role, action):
    return [one for one in statements(role) if action in listed(one["Action"])]


def allows(role, action, resource, context):
    """A statement for the action and the resource whose conditions the request meets."""
    return any(
        any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(one["Resource"]))
        and all(
            any(fnmatch.fnmatchcase(context.get(key, "(absent)"), want) for want in listed(wanted))
            or (operator.endswith("IfExists") and key not in context)
            for operator, keys in one.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
        for one in with_action(role, action)
    )


@pytest.fixture
def config():
    return prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


@pytest.fixture
def calls(config, monkeypatch):
    """What Ray's node provider sends to EC2 (checked by boto3 against EC2's model), not sent."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    aws_utils.resource_cache.cache_clear()
    sent = []

    def answer(model, params, **_):
        sent.append(model.name)
        return answers[model.name]

    def keep(params, model, **_):
        asked[model.name] = params

    asked = {}
    ok = type("Response", (), {"status_code": 200})()
    node = {
        "InstanceId": "i-1", "State": {"Name": "running"}, "StateReason": {"Message": ""},
        "Tags": [{"Key": TAG_RAY_NODE_KIND, "Value": "worker"}],
    }  # fmt: skip
    answers = {
        "DescribeInstances": (ok, {"Reservations": [{"Instances": [node]}]}),
        "RunInstances": (ok, {"Instances": [node], "ReservationId": "r-1"}),
        "CreateTags": (ok, {}),
        "TerminateInstances": (ok, {}),
    }
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("provide-client-params.ec2", keep)
        resource.meta.client.meta.events.register("before-call.ec2", answer)
    yield provider, sent, asked
    aws_utils.resource_cache.cache_clear()


def test_every_statement_allows_something_listed_here():
    for role in ("head", "worker"):
        for one in statements(role):
            assert one["Effect"] == "Allow" and one["Sid"].isalnum(), one
            assert not any("*" in action for action in listed(one["Action"])), one
    assert actions("worker") == S3_ACTIONS
    assert actions("head") == S3_ACTIONS | WITHOUT_RESOURCES | {
        "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances",
        "ssm:GetParameters", "iam:PassRole",
    }  # fmt: skip


def test_only_a_describe_call_is_for_any_resource():
    for role in ("head", "worker"):
        for one in statements(role):
            if "*" in listed(one["Resource"]):
                assert set(listed(one["Action"])) <= WITHOUT_RESOURCES, one
            else:
                arns = (resource.split(":", 5) for resource in listed(one["Resource"]))
                assert all("*" not in "".join(arn[:5]) for arn in arns), one


@pytest.mark.parametrize("role", ["head", "worker"])
def test_s3_is_the_runs_prefix_alone(role):
    bucket, run = "arn:aws:s3:::my-bucket", "arn:aws:s3:::my-bucket/my-prefix/410m/run.json"
    for action in S3_ACTIONS - {"s3:ListBucket"}:
        assert allows(role, action, run, {})
        for other in ("arn:aws:s3:::my-bucket/my-prefix2/x", "arn:aws:s3:::other/my-prefix/x"):
            assert not allows(role, action, other, {})
    for prefix in ("my-prefix/410m/corpus/", "my-prefix/"):
        assert allows(role, "s3:ListBucket", bucket, {"s3:prefix": prefix})
    for other in ("", "my-prefix2/"):
        assert not allows(role, "s3:ListBucket", bucket, {"s3:prefix": other})
    # S3 answers 404 to a read of a missing file if the bucket may be listed, else 403. Such a read
    # has no prefix.
    assert allows(role, "s3:ListBucket", bucket, {})


def test_the_head_may_do_what_rays_provider_asks_and_no_more(config, calls):
    provider, sent, asked = calls
    region, cluster = config["provider"]["region"], config["cluster_name"]
    ec2 = f"arn:aws:ec2:{region}:{ACCOUNT}:"
    for name, node_type in config["available_node_types"].items():
        node = dict(node_type["node_config"], SubnetIds=["subnet-1"])
        node["KeyName"] = aws_config.key_pair(0, region, None)[0]
        provider.create_node(node, {TAG_RAY_NODE_KIND: "worker"}, 1)
        launch = asked["RunInstances"]
        assert launch["MetadataOptions"]["HttpTokens"] == "required"
        tags = {tag["Key"]: tag["Value"] for tag in launch["TagSpecifications"][0]["Tags"]}
        context = {
            "aws:RequestTag/ray-cluster-name": tags["ray-cluster-name"],
            "ec2:MetadataHttpTokens": launch["MetadataOptions"]["HttpTokens"],
            "ec2:InstanceType": launch["InstanceType"],
        }
        worker = name != config["head_node_type"]
        assert allows("head", "ec2:RunInstances", ec2 + "instance/*", context) is worker
        for key in context:
            other = context | {key: "other"}
            assert not allows("head", "ec2:RunInstances", ec2 + "instance/*", other)
        used = [
            f"arn:aws:ec2:{region}::image/ami-1", ec2 + "subnet/subnet-1", ec2 + "volume/*",
            ec2 + "network-interface/*", ec2 + f"key-pair/{launch['KeyName']}",
            *(ec2 + f"security-group/{group}" for group in launch["SecurityGroupIds"]),
        ]  # fmt: skip
        if "InstanceMarketOptions" in launch:
            used.append(ec2 + "spot-instances-request/*")
        for resource in used:
            assert allows("head", "ec2:RunInstances", resource, {}), resource
        context = {
            "ec2:CreateAction": "RunInstances",
            "aws:RequestTag/ray-cluster-name": cluster,
        }
        assert allows("head", "ec2:CreateTags", ec2 + "instance/*", context)
        role = f"arn:aws:iam::{ACCOUNT}:role/{launch['IamInstanceProfile']['Name']}"
        to_ec2 = {"iam:PassedToService": "ec2.amazonaws.com"}
        assert allows("head", "iam:PassRole", role, to_ec2) is worker
        assert not allows("head", "iam:PassRole", role, {})
        parameter = launch["ImageId"].removeprefix("resolve:ssm:")
        image = f"arn:aws:ssm:{region}::parameter{parameter}"
        assert allows("head", "ssm:GetParameters", image, {})
    assert not config["provider"]["cache_stopped_nodes"]  # otherwise Start and StopInstances, too
    provider.non_terminated_nodes({})
    provider.set_node_tags("i-1", {TAG_RAY_NODE_STATUS: "up-to-date"})
    provider.terminate_nodes(["i-1"])
    provider.terminate_node("i-1")
    for action in ("ec2:CreateTags", "ec2:TerminateInstances"):
        ours = {"aws:ResourceTag/ray-cluster-name": cluster}
        assert allows("head", action, ec2 + "instance/i-1", ours)
        assert not allows("head", action, ec2 + "instance/i-1", {})
    made = {f"ec2:{name}" for name in sent}
    assert made == {action for action in actions("head") if action.startswith("ec2:")}


def test_placeholders_are_those_the_header_names(config):
    header = (ROOT / "cluster.yaml").read_text().split("cluster_name:")[0]
    for role in ("head", "worker"):
        text = (ROOT / f"cluster/iam-{role}.json").read_text()
        for found in re.findall(r"\b\d{12}\b|my-[a-z]+|sg-0+|us-[a-z]+-\d", text):
            assert found[:7] in header, found
