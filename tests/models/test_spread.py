"""A model with layers on two devices. No second device is here, so its tensors are torch's fake
ones: they have a device and a shape, and refuse to meet those of another device."""

import pytest
import torch
from accelerate import hooks
from support.models import random_tokens, small_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from s2l_ray.models.batch import examples_of
from s2l_ray.models.feed import LabelBatch, label_batch
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.signals import signals_of

FIRST, SECOND = torch.device("cpu"), torch.device("cpu", 1)


def spread(loss, fake, head, monkeypatch):
    """Put the first layer and the embeddings on one device, the rest on the other, the head on
    either, with the hooks that transformers' device_map sets."""
    model = loss.model
    names = {name: module for name, module in model.named_modules()}
    output = next(name for name in names if names[name] is model.get_output_embeddings())
    [layers] = [name for name in names if name.endswith("layers")]
    [inputs] = [name for name in names if names[name] is model.get_input_embeddings()]
    inside = layers.rpartition(".")[0]
    places = {
        f"{inside}.{name}": SECOND for name, _ in names[inside].named_children() if name != "layers"
    }
    places |= {"": FIRST, inputs: FIRST, f"{layers}.0": FIRST, f"{layers}.1": SECOND, output: head}

    # As accelerate's dispatch_model does; it moves real tensors only, so they are moved below.
    stays = {name: False for name in places if name}
    monkeypatch.setattr(hooks, "set_module_tensor_to_device", lambda *_, **__: None)
    hooks.attach_align_device_hook_on_blocks(model, execution_device=places, offload=stays)

    def put(tensor, device):
        found = fake.from_tensor(tensor.detach())
        with fake:
            return found.to(device)

    for name, module in names.items():
        place = max(
            (each for each in places if f"{name}.".startswith(f"{each}.") or not each), key=len
        )
        for kind, held in (("p", module._parameters), ("b", module._buffers)):
            for key, tensor in held.items():
                if tensor is not None:
                    made = put(tensor, places[place])
                    held[key] = nn.Parameter(made, requires_grad=False) if kind == "p" else made


@pytest.mark.parametrize("head", [FIRST, SECOND], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gemma2"])  # head apart, or not
def test_losses_and_signals_of_a_model_on_two_devices(kind, head, monkeypatch):
    loss, examples = LabelLoss(small_model(kind)), examples_of(random_tokens(4))
    batch, fake = label_batch(examples), FakeTensorMode()
    expected = signals_of(loss, batch, ("confidence", "el2n", "features"))
    spread(loss, fake, head, monkeypatch)
    tensors = [fake.from_tensor(each) for each in batch[:3]]
    with fake, torch.inference_mode():
        assert loss.model.device == FIRST
        found = signals_of(
            loss, LabelBatch(*tensors, batch.counts), ("confidence", "el2n", "features")
        )
    assert {name: each.shape for name, each in found.items()} == {
        name: each.shape for name, each in expected.items()
    }
