"""What a model is like: weights at work, positions, causality, a separate output head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def parameters_at_work(config: dict[str, Any], label_share: float) -> int:
    """How many weights of a model, by its config.json, a token is multiplied with on average: all
    but the input embeddings (of tokens and of places); of experts, as many as a token goes to; and
    the output head, be it tied to the embeddings or not, for the share of tokens that are labels,
    since LabelLoss takes it there alone.

    Builds the model without memory for its weights.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    text = model.config.get_text_config()
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((count for name in names if (count := getattr(text, name, None))), None)
    to_experts = getattr(text, "num_experts_per_tok", experts) / experts if experts else 1.0
    head = model.get_output_embeddings()
    at_labels = {id(weights) for weights in head.parameters()} if head is not None else set()
    looked_up = {
        id(weights)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for weights in module.parameters()
    } - at_labels
    total = 0.0
    for name, weights in model.named_parameters():
        if id(weights) in at_labels:
            total += label_share * weights.numel()
        elif id(weights) not in looked_up:
            total += weights.numel() * (to_experts if ".experts." in name else 1.0)
    return round(total)


def learned_positions(model: PreTrainedModel) -> int | None:
    """How many positions a model has embeddings of; None if it computes them, for any."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tokens = model.get_input_embeddings()
    learned = limit is not None and any(
        # OPT, for one, has two more than its config says.
        isinstance(module, nn.Embedding) and limit <= module.num_embeddings <= limit + 2
        for module in model.modules()
        if module is not tokens
    )
    return limit if learned else None


def steady_positions(model: PreTrainedModel) -> int | None:
    """Up to which length an example's loss does not depend on the longest one beside it; None if
    it never does. Rotary embeddings of these types change with the length of the whole batch."""
    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    layers = rope.values() if "rope_type" not in rope else [rope]  # or by type of layer
    types = {
        layer["rope_type"]: layer.get("original_max_position_embeddings")
        for layer in layers
        if isinstance(layer, dict) and "rope_type" in layer
    }
    if "dynamic" in types:
        types["dynamic"] = text.max_position_embeddings
    changing = (types.get(name) for name in ("dynamic", "longrope"))
    return min((limit for limit in changing if limit is not None), default=None)


def trial_ids(model: PreTrainedModel) -> Tensor:
    return torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size


def check_causal(model: PreTrainedModel) -> None:
    """Some encoders load as language models all the same: their loss would be of a given answer."""
    ids, training = trial_ids(model), model.training
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    model.eval()
    with torch.no_grad():
        logits = [model(input_ids=x, use_cache=False).logits[:, :-1].float() for x in (ids, other)]
    model.train(training)
    if not torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"model: in a {model.config.model_type} tokens see later ones; wanted a causal "
            f"language model (a decoder)"
        )


def freeze_unreached(model: PreTrainedModel) -> None:
    """Weights that text does not reach, of a vision tower, say, get no gradient, and DDP would wait
    for one."""
    if model.config.get_text_config() is model.config:
        return
    reached = {
        id(weights)
        for module in (model.get_decoder(), model.get_output_embeddings())
        if module is not None
        for weights in module.parameters()
    }
    for weights in model.parameters():
        weights.requires_grad_(id(weights) in reached)


def head_is_apart(model: PreTrainedModel) -> bool:
    """Whether model(x) is head(base_model(x)), a linear head and nothing more, by a trial.

    The head's output is replaced by large numbers in the trial: at the small logits of a fresh
    model a soft cap, for one, would not show.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or model.base_model is model:
        return False
    seen: dict[str, Tensor] = {}

    def replace(_: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        seen["hidden"] = inputs[0]
        large = torch.linspace(-100, 100, logits.numel(), device=logits.device)
        seen["logits"] = large.to(logits.dtype).view_as(logits)
        return seen["logits"]

    ids, training = trial_ids(model), model.training
    model.eval()
    hook = head.register_forward_hook(replace)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        hook.remove()
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    model.train(training)
    return (
        bool(seen)
        and torch.equal(logits.float(), seen["logits"].float())
        and torch.equal(hidden, seen["hidden"])
    )
