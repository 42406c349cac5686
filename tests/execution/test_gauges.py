"""A run's gauges, as Ray's own Prometheus endpoint serves them."""

import re
import time
import urllib.request

import pytest
import ray

from s2l_ray.execution import events
from s2l_ray.execution.events import Point
from s2l_ray.execution.gauges import Gauges
from s2l_ray.execution.progress import Progress


def metrics(run):
    """Of a run: metric -> {its stage, or its line and unit: value}."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, tags, value in re.findall(r"^ray_s2l_ray_(\w+)\{(.*)\} (\S+)$", text, re.M):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        if tags["run"] == run:
            key = tuple(tags[each] for each in ("stage", "line", "unit") if each in tags)
            found.setdefault(name, {})[key] = float(value)
    return found


def once(wanted):
    """Wait until Ray serves these."""
    until = time.monotonic() + 60
    while (found := metrics("my-run")) != wanted:
        assert time.monotonic() < until, found
        time.sleep(1)


@pytest.mark.slow
def test_gauges_come_out_of_rays_prometheus_endpoint(local_ray):
    gauges = Gauges("my-run")
    events.listeners.append(gauges)
    try:
        with events.making(["proxy/p1"]), Progress("proxy", total=40, unit="steps") as progress:
            progress.set(7)
            events.tell(lambda each: each.trained("proxy/p1", [Point(7, 2.5, 0.1, 1234.0)]))
            moving = {
                "stage_running": {("proxy",): 1},
                "done": {("proxy", "steps"): 7},
                "total": {("proxy", "steps"): 40},
                "tokens_per_second": {("proxy",): 1234},
            }
            once(moving)
        once(moving | {"stage_running": {("proxy",): 0},
                       "tokens_per_second": {("proxy",): 0}})  # fmt: skip
    finally:
        events.listeners.remove(gauges)
