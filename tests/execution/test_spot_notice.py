"""The spot-notice watcher against a metadata service on loopback, and against a real Ray."""

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.head import REPOSITORY, environment

from s2l_ray.execution.spot_notice import Metadata, Notice, watch

SCRIPT = REPOSITORY / "s2l_ray/execution/spot_notice.py"


class Service:
    """AWS's instance metadata service, version 2: an item is given for a valid token alone."""

    def __init__(self):
        self.items, self.tokens, self.asked = {}, ["token-1"], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self):
                ttl = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                known = self.path == "/latest/api/token" and 1 <= int(ttl) <= 21600
                self._answer(200 if known else 400, service.tokens[-1])

            def do_GET(self):
                service.asked.append(self.path)
                if self.headers["X-aws-ec2-metadata-token"] != service.tokens[-1]:
                    return self._answer(401, "")
                item = service.items.get(self.path.removeprefix("/latest/meta-data/"))
                return self._answer(404, "") if item is None else self._answer(200, item)

            def _answer(self, status, text):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def interrupt(self, seconds):
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        action = {"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.items["spot/instance-action"] = json.dumps(action)

    def recommend(self):
        self.items["events/recommendations/rebalance"] = '{"noticeTime": "2026-01-01T00:00:00Z"}'


@pytest.fixture
def service():
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture
def metadata(service, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the service is not behind a proxy
    return Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url + "/"})


def test_nothing_is_announced(metadata):
    assert metadata.notice() is None


def test_an_interruption_is_told_with_the_time_that_is_left(service, metadata):
    service.interrupt(120)
    why, seconds = metadata.notice()
    assert why == "AWS will terminate this instance" and 110 < seconds <= 120


def test_a_rebalance_recommendation_is_a_notice_without_a_time(service, metadata):
    service.recommend()
    assert metadata.notice() == Notice("AWS recommends leaving this instance", None)


def test_an_expired_token_is_replaced(service, metadata):
    assert metadata.notice() is None
    service.tokens.append("token-2")
    service.interrupt(60)
    assert metadata.notice().seconds > 50


def test_without_the_variable_it_asks_awss_own_address():
    assert Metadata({}).endpoint == "http://169.254.169.254"


def test_a_service_that_is_gone_is_told_once_and_asked_on(service, caplog):
    metadata = Metadata({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"})
    drained = []
    thread = threading.Thread(target=watch, args=(metadata, drained.append, 0.01))
    thread.start()
    time.sleep(0.2)
    service.interrupt(60)
    metadata.endpoint = service.url
    thread.join(10)
    assert len(drained) == 1 and not thread.is_alive()
    assert sum("asking on" in each.message for each in caplog.records) == 1


def test_the_end_is_still_told_after_a_recommendation(service, metadata):
    service.recommend()
    drained = []

    def drain(notice):
        drained.append(notice)
        service.interrupt(100)

    watch(metadata, drain, 0.01)
    assert [notice.seconds is None for notice in drained] == [True, False]


def test_a_ray_that_does_not_answer_is_told_again(service, metadata, caplog):
    service.interrupt(100)
    calls = []

    def drain(notice):
        calls.append(notice)
        if len(calls) == 1:
            raise RuntimeError("the head is busy")

    watch(metadata, drain, 0.01)
    assert len(calls) == 2 and "Ray was not told: the head is busy" in caplog.text


def test_it_runs_as_a_file_alone_and_says_what_it_lacks(tmp_path):
    (tmp_path / "spot_notice.py").write_text(SCRIPT.read_text())
    env = {**environment(), "PYTHONPATH": ""}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-I", "spot_notice.py"],
        cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "--address: missing" in done.stderr


PROGRAM = """
import json, subprocess, sys, time
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
node = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2")
ray.init(cluster.address, log_to_driver=False)

@ray.remote(num_cpus=1)
class Busy:  # an idle node that is drained goes at once
    def here(self):
        pass

busy = Busy.remote()
ray.get(busy.here.remote())
told = subprocess.run(
    [sys.executable, sys.argv[1], "--address", cluster.address, "--node-ip", "127.0.0.2"],
    capture_output=True, text=True, timeout=60,
)
draining = ray._private.state.state.get_draining_nodes()
left = {each: deadline / 1000 - time.time() for each, deadline in draining.items()}
print(json.dumps([told.returncode, told.stderr, left, node.node_id]))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_the_node_of_this_address_is_drained_and_no_other(service, tmp_path):
    service.interrupt(100)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", SCRIPT],
        env={**environment(), "AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url,
             "PATH": os.environ["PATH"]},
        text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status, said, left, node = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, said
    assert "AWS will terminate this instance; the node is drained" in said
    assert list(left) == [node] and 50 < left[node] <= 100
