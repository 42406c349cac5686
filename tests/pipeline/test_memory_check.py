"""A training that cannot fit the cluster's memory is refused before anything is trained."""

import shutil

import pytest
from support.runs import architecture, corpus, settings

import s2l_ray
from s2l_ray.config import ModelConfig, WorkersConfig
from s2l_ray.models.room import Room
from s2l_ray.pipeline import memory
from s2l_ray.pipeline.gpus import measured


def test_the_room_of_the_nodes_that_are_there(local_ray):
    [room] = memory.rooms_of(WorkersConfig(num_workers=3))
    assert room.per_node == 3 and room.host > 1e8 and room.gpu is None
    [room] = memory.rooms_of(WorkersConfig(num_workers=9, cpus_per_worker=2))
    assert room.per_node == 2  # of 4 CPUs


def test_gpus_that_are_not_there_yet_have_their_nominal_memory(local_ray):
    kind = WorkersConfig(gpus_per_worker=1, accelerator_type="H100")
    assert memory.rooms_of(kind) == [Room(gpu=80e9, where="H100, nominal")]
    assert memory.rooms_of(WorkersConfig(gpus_per_worker=1)) == [] == measured(kind)


@pytest.mark.slow
def test_a_proxy_that_cannot_fit_is_refused_unless_it_is_there(copy, monkeypatch):
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "rooms_of", lambda _: [Room(host=1e6, where="node a")])
    s2l_ray.select(corpus(), settings(copy))
    shutil.rmtree(copy / "proxy")
    with pytest.raises(ValueError, match=r"proxy: micro-batches of 32 x \d+ tokens need .*node a"):
        s2l_ray.select(corpus(), settings(copy))
    assert not (copy / "proxy").exists()


@pytest.mark.parametrize("width, layers, small", [(64, 2, True), (2048, 16, False)])
def test_small_models_are_known_without_torch(width, layers, small):
    fields = architecture("llama") | {"hidden_size": width, "num_hidden_layers": layers}
    model = ModelConfig(architecture=fields, tokenizer_vocab=320)
    assert memory._is_small(model) is small
    assert not memory._is_small(ModelConfig(name="owner/model"))
    experts = fields | {"num_local_experts": 8}
    assert not memory._is_small(ModelConfig(architecture=experts, tokenizer_vocab=320))
