"""No credentials in a configuration, in any field and any form, and none in a message."""

from pathlib import Path

import pytest
import yaml
from support.config_fields import WHOLE, fields, kinds

from s2l_ray.config import load, validate
from s2l_ray.config.credentials import credentials_fault
from s2l_ray.config.run import RunConfig
from s2l_ray.errors import ConfigError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
HUB = "hf_" + "SECRETSECRETSECRETSECRETSECRETSECR"  # 34 letters, as the hub makes them
WITH = [
    "s3://AKIA:SECRET@bucket/x.jsonl",
    "S3://AKIA:SECRET@bucket/x.jsonl",
    " s3://AKIA:SECRET@bucket/x.jsonl",
    "s3:\\\\AKIA:SECRET@bucket/x.jsonl",
    "s3://AKIA:SECRET%40bucket/x.jsonl",
    "s3://AKIA:SECRET%2540bucket/x.jsonl",
    "s3://SECRET@bucket/x.jsonl",
    "https://user:SECRET@host/x.jsonl",
    "https://:SECRET@host/x.jsonl",
    "abfs://box:SECRET@account/x.jsonl",
    "abfs://box@account/x.jsonl?sv=2024&sig=SECRET",
    "abfs://box@account/x.jsonl;AccountKey=SECRET",
    "hf://owner/dataset?token=SECRET",
    "hf://owner/dataset#token=SECRET",
    f"hf://{HUB}@owner/dataset",
    f"s3://bucket/{HUB}/x.jsonl",
    f"{HUB}/x.jsonl",
    "s3://bucket/x?access_key=SECRET",
    "s3://bucket/x?AWSAccessKeyId=SECRET",
    "s3://bucket/x?region=eu-west-1&secret_key=SECRET",
    "s3://bucket/x?region=eu-west-1;secret_key=SECRET",
    "s3://bucket/x?region=eu-west-1?secret_key=SECRET",
    "s3://bucket/x?region=eu-west-1%26secret_key=SECRET",
    "s3://bucket/x?%73ecret_key=SECRET",
    "s3://bucket/x?endpoint_override=https://key:SECRET@host",
    "s3://bucket/x?endpoint_override=https%3A%2F%2Fkey%3ASECRET%40host",
    "s3://bucket/x?endpoint_override=key:SECRET%40host",
    "https://host/x?X-Amz-Credential=AKIA&X-Amz-Signature=SECRET",
    "https://host/x?x-goog-signature=SECRET",
    "host/x.jsonl?X-Amz-Signature=SECRET",
    "AKIAABCDEFGHSECRETXX",
    "ghp_SECRETSECRETSECRETSECRETSECRETSECRET",
]
WITHOUT = [
    "abfss://box@account.example/x.jsonl",
    "s3://b/x*?region=eu-west-1&scheme=http",
    "s3://b/token=5/x.parquet",
    "s3://b/a%40b/x.jsonl",
    "s3://b/user@host/x.jsonl",
    "hf://owner/dataset@main:config/split",
    "hdfs://namenode:8020/x?user=me&replication=3",
    "x?y",
    "data/a@b:c/x.jsonl",
    "hf_checkpoints_of_last_week/model",
    "asiapacificcustomers",  # as long as a key, which has capitals alone
    "/runs/risk-assessment-of-the-year-two-thousand/x",
    "my password=x.jsonl",
    "Below is an instruction: mail me@example.org for a token=1 {instruction}",
]


@pytest.mark.parametrize("text", WITH)
def test_every_form_is_found(text):
    for value in (text, ["a.jsonl", text], {"a": {"b": [text]}}):
        told = credentials_fault(value)
        assert told and "without credentials" in told and "SECRET" not in told


@pytest.mark.parametrize("text", WITHOUT)
def test_what_holds_none_is_kept(text):
    assert credentials_fault(text) is None


@pytest.mark.parametrize("text", WITH[:30:6])
def test_the_corpus_is_refused_in_a_file_and_in_an_override(text, tmp_path):
    data = yaml.safe_load(SHIPPED[0].read_text())
    data["corpus"]["path"] = ["a.jsonl", text]
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(data))
    for path, overrides in ((file, []), (SHIPPED[0], [f"corpus.path={yaml.safe_dump(text)}"])):
        with pytest.raises(ConfigError, match=r"corpus.path: expected a .*credentials") as caught:
            load(path, overrides)
        assert "SECRET" not in str(caught.value) and "list[" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "annotation"),
    [(path, kind) for path, kind in fields(RunConfig) if {str, list, dict} & kinds(kind)],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_every_field_that_takes_text_refuses_them(path, annotation):
    for text in ("https://user:SECRET@host/x", f"models/{HUB}"):
        for value in (text, [text], {"a": text}):
            data = validate(WHOLE).model_dump()
            node = data
            for name in path[:-1]:
                node[name] = {} if node[name] is None else node[name]
                node = node[name]
            node[path[-1]] = value
            with pytest.raises(ConfigError) as caught:
                validate(data)
            assert "SECRET" not in str(caught.value)


def test_messages_of_other_faults_do_not_repeat_them():
    for override in (
        "modle=https://user:SECRET@host/x",
        f"proxy.model.nmae={HUB}",
        f"corpus.format=[{HUB}]",
        f"seed={HUB}",
        "prompt.template=https://host/x?X-Amz-Signature=SECRET",
        "name.x=https://user:SECRET@host/x",
        f"{HUB}",
    ):
        with pytest.raises(ConfigError) as caught:
            load(SHIPPED[0], [override])
        assert "SECRET" not in str(caught.value), override
