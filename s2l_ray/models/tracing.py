"""Trace a micro-batch without computing it: the memory that a forward and a backward pass take.

The model's own code runs on fake tensors, which have shapes and no data, so a trace knows every
architecture and takes no memory. Shapes are those of the longest possible micro-batch.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from s2l_ray.models.chunked import chunked_losses
from s2l_ray.models.loss import LOGITS_AT_ONCE

LAYERS = 4, 12  # of the models that longer ones are extrapolated from

Adapt = Callable[[PreTrainedModel], PreTrainedModel]


class Trace(NamedTuple):
    """The size of a model, in weights, and what a micro-batch takes, in bytes."""

    weights: int
    trained: int
    linear: int  # weights of linear layers in the decoder's layers
    largest: int  # weights of the largest layer, embedding or head
    passes: int  # the peak of forward and backward pass: neither weights nor their gradients


def trace(
    config: PretrainedConfig,
    batch: int,
    length: int,
    *,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    recompute: bool = False,
    training: bool = True,
    adapt: Adapt | None = None,
) -> Trace:
    """Trace `batch` examples of `length` tokens, all of them labels.

    dtype: of the weights. autocast: compute in bf16 all the same. recompute: gradient
    checkpointing. training: with a backward pass. adapt: changes the model, such as by adding
    adapters, and returns the one to train.

    Of a model with many layers, the passes are extrapolated from two with fewer.
    """
    model = _built(config, dtype)
    weights, linear, largest = _sizes(model)
    if adapt is not None:
        model = adapt(model)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)

    def passes(config: PretrainedConfig) -> int:
        model = _built(config, dtype)
        model = model if adapt is None else adapt(model)
        with FakeTensorMode():
            cast = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
            return _passes(_faked(model), batch, length, cast, recompute, training)

    layers = config.get_text_config().num_hidden_layers
    few, more = LAYERS
    if layers <= more:
        return Trace(weights, trained, linear, largest, passes(config))
    low, high = (passes(_with_layers(config, number)) for number in LAYERS)
    peak = high + (high - low) * (layers - more) // (more - few)
    return Trace(weights, trained, linear, largest, peak)


def _built(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _faked(model: PreTrainedModel) -> PreTrainedModel:
    """Replace tensors on the meta device by fake ones on the CPU, whose kernels are traced."""
    made: dict[int, nn.Parameter] = {}  # one for tied weights
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = nn.Parameter(fake, parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return model


def _with_layers(config: PretrainedConfig, number: int) -> PretrainedConfig:
    """Return the config of a model with the first `number` layers only."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == text.num_hidden_layers:
            setattr(text, name, value[:number])  # such as the kind of each layer
    text.num_hidden_layers = number
    return config


def _passes(
    model: PreTrainedModel,
    batch: int,
    length: int,
    cast: AbstractContextManager[Any],
    recompute: bool,
    training: bool,
) -> int:
    """Return the peak of a forward and a backward pass, in bytes."""
    model.train(training)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
    live = _Live([*model.parameters(), *model.buffers()])
    with live, nullcontext() if training else torch.inference_mode():
        ids_BL = torch.zeros(batch, length, dtype=torch.int64)
        with cast:
            loss = _loss(model, ids_BL)
        if training:
            loss.backward()
    return live.peak


def _loss(model: PreTrainedModel, ids_BL: Tensor) -> Tensor:
    hidden_BLD = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
    hidden_MD = hidden_BLD.flatten(0, 1)
    head = model.get_output_embeddings()
    targets_M = ids_BL.flatten()
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if len(targets_M) > rows:
        return chunked_losses(head, hidden_MD, targets_M, rows=rows).sum()
    return nn.functional.cross_entropy(head(hidden_MD).float(), targets_M)


def _drop_gradient(parameter: Tensor) -> None:
    """As if it were added to a gradient that is there already, which the trace does not count."""
    parameter.grad = None


def _sizes(model: PreTrainedModel) -> tuple[int, int, int]:
    """Return the number of all weights, of those of linear layers but the head, and of the largest
    module that ZeRO-3 gathers at once."""
    head = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    layers = {
        type(layer)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for layer in module
    }
    counts = [0]
    for module in model.modules():
        if type(module) in layers or module in (head, model.get_input_embeddings()):
            counts.append(sum(parameter.numel() for parameter in module.parameters()))
    return sum(parameter.numel() for parameter in model.parameters()), linear, max(counts)


class _Live(TorchDispatchMode):
    """Follow the bytes of tensors that are alive, and their peak. `known` ones do not count."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages = {each.untyped_storage()._cdata for each in known}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._follow(tensor)
        return made

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.storages:
            return
        self.storages.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size
