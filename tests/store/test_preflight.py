"""What is wrong with a run directory is said before any work, each fault in its own words."""

import http.server
import json
import os
import threading
import time

import boto3
import botocore.auth
import pytest
from support.ceph import free_port
from support.proxy import KINDS, Proxy

from s2l_ray.config import StorageConfig
from s2l_ray.errors import StorageError
from s2l_ray.store import Store, preflight
from s2l_ray.store.lease import Lease
from s2l_ray.store.s3 import S3Objects
from s2l_ray.store.s3_client import client


def refusal(store):
    began = time.monotonic()
    with pytest.raises(StorageError) as error:
        preflight.check(store)
    assert time.monotonic() - began < 12
    return str(error.value)


def test_a_good_store_passes_and_keeps_no_trace(s3_uri):
    store = Store(s3_uri)
    preflight.check(store)
    assert store.names() == [] and store.objects.conditional


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys(s3_uri, monkeypatch, name):
    monkeypatch.setenv(name, "wrong")
    assert "the credentials are refused" in refusal(Store(s3_uri))


def test_no_keys(s3_uri, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "no credentials; set AWS_ACCESS_KEY_ID" in refusal(Store(s3_uri))


class Slow(http.server.BaseHTTPRequestHandler):
    """The service of a cloud's node that has its role's credentials, twice without an answer."""

    asked: list[str] = []

    def do_PUT(self):
        self.answer(b"token")

    def do_GET(self):
        times = {"Expiration": "2099-01-01T00:00:00Z", "LastUpdated": "2026-01-01T00:00:00Z"}
        key = {"AccessKeyId": "role", "SecretAccessKey": "s", "Token": "t", "Code": "Success"}
        self.answer(
            json.dumps(key | times).encode() if self.path.endswith("/worker") else b"worker"
        )

    def answer(self, body):
        self.asked.append(self.path)
        self.send_response(200 if len(self.asked) > 2 else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_credentials_of_a_role_are_asked_for_again(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
        found = client(StorageConfig(region="us-east-1"))._request_signer._credentials
        server.shutdown()
    assert found is not None and found.access_key == "role"


def test_no_such_bucket(s3_uri):
    assert "there is no bucket 'no-such-bucket'" in refusal(Store("s3://no-such-bucket/x"))


def test_nothing_answers(s3_uri):
    endpoint = f"http://127.0.0.1:{free_port()}"
    message = refusal(Store(s3_uri, StorageConfig(endpoint=endpoint)))
    assert f"{endpoint} does not answer" in message


@pytest.mark.slow
def test_a_store_that_says_nothing_is_given_up_in_time(s3_uri):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        message = refusal(Store(s3_uri, StorageConfig(endpoint=endpoint)))
        server.shutdown()
    assert "too slow" in message or "no answer for 10 s" in message


class Silent(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        time.sleep(8)

    def log_message(self, *_):
        pass


def test_a_clock_that_is_off(s3_uri, monkeypatch):
    now = botocore.auth.get_current_datetime
    later = lambda **kw: now(**kw).replace(year=now(**kw).year + 1)  # noqa: E731
    monkeypatch.setattr(botocore.auth, "get_current_datetime", later)
    assert "this machine's clock says" in refusal(Store(s3_uri))


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """What AWS answers for a bucket of another region."""

    def do_PUT(self):
        body = (
            b"<Error><Code>PermanentRedirect</Code><Message>The bucket you are attempting to "
            b"access must be addressed using the specified endpoint.</Message></Error>"
        )
        self.send_response(301)
        self.send_header("x-amz-bucket-region", "eu-west-1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_bucket_of_another_region(s3_uri):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        config = StorageConfig(endpoint=endpoint, region="us-east-1", addressing="path")
        message = refusal(Store(s3_uri, config))
        server.shutdown()
    assert "another region (eu-west-1); storage.region is 'us-east-1'" in message


def test_keys_without_the_right_to_write(s3_uri, ceph):
    bucket = s3_uri.removeprefix("s3://").split("/")[0]
    client = boto3.session.Session().client("s3")
    client.put_bucket_policy(
        Bucket=bucket,
        Policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
        f'"Action": "s3:PutObject", "Resource": "arn:aws:s3:::{bucket}/closed/*"}}]}}',
    )
    try:
        assert "access denied" in refusal(Store(f"s3://{bucket}/closed/run"))
    finally:
        client.delete_bucket_policy(Bucket=bucket)


def test_a_store_without_conditional_writes_is_told_and_still_creates_once(s3_uri, ceph):
    proxy = Proxy(ceph.endpoint, {"501": 1})
    store = Store(s3_uri, StorageConfig(endpoint=proxy.endpoint))
    preflight.check(store)
    assert not store.objects.conditional
    assert store.objects.create("x", b"1") and not store.objects.create("x", b"2")
    assert store.read_bytes("x") == b"1"
    lease = Lease(store, seconds=6).take()
    with pytest.raises(ValueError, match="in use by another run"):
        Lease(Store(s3_uri, StorageConfig(endpoint=proxy.endpoint)), seconds=6).take()
    lease.release()
    proxy.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_requests_outlast_a_store_in_trouble(s3_uri, ceph, kind):
    proxy = Proxy(ceph.endpoint, {kind: 0.3}, seed=3)
    store = Store(s3_uri, StorageConfig(endpoint=proxy.endpoint))
    for number in range(8):
        data = os.urandom(1000 + number)
        store.write_bytes(data, "a", f"{number}")
        assert store.read_bytes("a", f"{number}") == data
    assert store.objects.create("once", b"1")
    assert not store.objects.create("once", b"2")
    assert store.objects.sizes("a") == {str(n): 1000 + n for n in range(8)}
    assert proxy.counts[kind] > 0
    proxy.stop()


@pytest.mark.slow
def test_requests_outlast_a_store_that_is_away(s3_uri, ceph):
    objects = S3Objects(s3_uri, StorageConfig())
    objects.write("x", b"1")
    ceph.pause()
    back = threading.Timer(5, ceph.resume)
    back.start()
    try:
        objects.write("y", b"2")
    finally:
        back.join()
    assert (objects.read("x"), objects.read("y")) == (b"1", b"2")


def test_a_node_that_sees_another_folder_refuses(tmp_path):
    store = Store(tmp_path / "run")
    taken = Lease(store, seconds=60).take()
    preflight.check_node(store)
    other = Store(tmp_path / "other", epoch=store.epoch)  # as the same path on another machine
    with pytest.raises(ValueError, match="is not the folder that the driver sees"):
        preflight.check_node(other)
    taken.release()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        preflight.check(Store(tmp_path / "file" / "run"))


def test_an_endpoint_of_the_environment_has_no_credentials(monkeypatch):
    """Messages name the endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://key:SECRET@store.example")
    with pytest.raises(ValueError, match=r"^AWS_ENDPOINT_URL: expected a path or URI without") as e:
        client(StorageConfig())
    assert "SECRET" not in str(e.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example:9000")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert client(StorageConfig()).meta.endpoint_url == "https://store.example:9000"
