"""Properties of a model: weights per token, positions, causality, a separate output head."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2l_ray.models.sharding import is_sharded


def parameters_at_work(config: dict[str, Any], label_share: float) -> int:
    """Count the weights that an average token is multiplied with, from a model's config.json:

    - all weights but the embeddings of tokens and positions;
    - of experts, the share that a token is routed to;
    - the output head, tied or not, times the share of tokens that are labels (see LabelLoss).

    Builds the model without allocating its weights.
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
    """Return how many positions a model has learned embeddings of; None if it computes them."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tokens = model.get_input_embeddings()
    learned = limit is not None and any(
        # OPT has two more than its config says.
        isinstance(module, nn.Embedding) and limit <= module.num_embeddings <= limit + 2
        for module in model.modules()
        if module is not tokens
    )
    return limit if learned else None


def steady_positions(model: PreTrainedModel) -> int | None:
    """Return the longest batch whose losses do not depend on its longest example; None: any.

    Beyond it, "dynamic" and "longrope" rotary embeddings change with the length of the batch.
    """
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


def trial_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model itself, or a tiny one of its class if no worker has its whole weights.

    ValueError if no tiny one can be made.
    """
    if not any(is_sharded(weights) for weights in model.parameters()):
        return model
    for narrow in (True, False):
        try:
            tiny = tiny_like(model, narrow=narrow)
            with torch.no_grad():
                tiny(input_ids=trial_ids(tiny), use_cache=False)
            return tiny
        except Exception as error:  # whatever a model says of sizes that do not fit one another
            reason = error
    raise ValueError(
        f"model: cannot make a small {type(model).__name__} to check how it computes ({reason}); "
        "set zero_stage 2 or 1"
    )


def tiny_like(model: PreTrainedModel, *, narrow: bool = True) -> PreTrainedModel:
    """Make a model of the same class with few layers and a small vocabulary, and narrow ones.

    Its weights are random and large, so that what reaches a logit shows in it.
    """
    config = copy.deepcopy(model.config)
    for part in {id(part): part for part in (config, *_parts(config))}.values():
        _shorten(part)
    text = config.get_text_config()
    text.vocab_size = min(text.vocab_size, 64)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    if narrow:
        _narrow(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for weights in tiny.parameters():
            nn.init.normal_(weights, std=0.3)
    return tiny


def _parts(config: Any) -> list[Any]:
    """List the configs of a model's parts, such as text and vision."""
    return [part for name in config.sub_configs if (part := getattr(config, name, None))]


def _shorten(config: Any) -> None:
    """Keep the layers up to the first of each kind, at least two."""
    layers = getattr(config, "num_hidden_layers", None)
    if layers is None:
        return
    kinds = getattr(config, "layer_types", None) or [None]
    keep = max(2, *(kinds.index(kind) + 1 for kind in kinds))
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(config, name, value[:keep])
    config.num_hidden_layers = min(layers, keep)


def _narrow(config: Any) -> None:
    """Reduce heads and widths, with as many query heads per key head as before."""
    heads, width = config.num_attention_heads, config.hidden_size
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    fewer = min(2, key_heads)
    config.num_attention_heads = heads // key_heads * fewer
    config.hidden_size = width // heads * config.num_attention_heads
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = fewer
    if hasattr(config, "word_embed_proj_dim"):  # of OPT
        config.word_embed_proj_dim = config.hidden_size
    for name in ("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner"):
        if getattr(config, name, None):
            setattr(config, name, 64)


def trial_ids(model: PreTrainedModel) -> Tensor:
    return torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size


def check_causal(model: PreTrainedModel) -> None:
    """ValueError if attention is not causal, by a trial: some encoders load as language models."""
    ids, training = trial_ids(model), model.training
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    model.eval()
    with torch.no_grad():
        logits = [model(input_ids=x, use_cache=False).logits[:, :-1].float() for x in (ids, other)]
    model.train(training)
    if not torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"model: attention of this {model.config.model_type} is not causal; use a decoder model"
        )


def of_packed(position_ids_BL: Tensor | None) -> dict[str, Tensor]:
    """Return the model's arguments for packed examples. Some models take no position_ids."""
    return {} if position_ids_BL is None else {"position_ids": position_ids_BL}


def check_packing(model: PreTrainedModel) -> None:
    """ValueError if an example changes the logits of the next one in its row, by a trial.

    State-space models carry their state on, and some models ignore position_ids or take none. The
    change is compared with that by a row without position_ids, because logits of fresh weights are
    small. In fp32 it is below 1e-5 of it, and above 3e-3 in models whose examples meet.
    """
    ids, training = trial_ids(model), model.training
    both = torch.cat([ids.flip(1), ids], 1)
    positions = torch.arange(ids.shape[1], device=ids.device).repeat(2)[None]
    model.eval()
    try:
        with torch.no_grad():
            alone, packed, joined = (
                model(input_ids=row, use_cache=False, **more).logits[:, -ids.shape[1] :].float()
                for row, more in ((ids, {}), (both, of_packed(positions)), (both, {}))
            )
        limit = 1e-3 if model.dtype == torch.float32 else 0.03
        apart = bool((packed - alone).norm() < limit * (joined - alone).norm())
    except TypeError:  # unexpected keyword argument
        apart = False
    finally:
        model.train(training)
    if not apart:
        raise ValueError(
            f"packing: this {model.config.model_type} does not keep packed examples apart by their "
            "position_ids; set packing to false"
        )


def freeze_unreached(model: PreTrainedModel) -> None:
    """Freeze weights that text does not reach, such as a vision tower's: DDP would wait for their
    gradients."""
    reached = _reached(model)
    for weights in model.parameters():
        if id(weights) not in reached:
            weights.requires_grad_(False)


def unreached(model: PreTrainedModel) -> list[str]:
    """List the parts of a model that text does not reach, such as a vision tower."""
    reached, found = _reached(model), list[str]()
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{part}.") for part in found)
        weights = {id(each) for each in module.parameters()}
        if weights and not inside and reached.isdisjoint(weights):
            found.append(name)
    return found


def _reached(model: PreTrainedModel) -> set[int]:
    """The ids of the weights that text reaches."""
    parts = [model]
    if model.config.get_text_config() is not model.config:
        parts = [model.get_decoder(), model.get_output_embeddings()]
    return {id(weights) for part in parts if part is not None for weights in part.parameters()}


def output_head(model: PreTrainedModel) -> Any:
    """Return the output head, or None if the model does not expose it. Of a head that is trained
    whole beside adapters, return the copy that is trained."""
    head = model.get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)  # of peft's wrapper
    return head if copies is None else copies["default"]


def head_is_apart(model: PreTrainedModel) -> bool:
    """Return whether model(x) is head(base_model(x)) with a linear head, by a trial.

    The trial replaces the head's output with large numbers, because a soft cap would not show at
    the small logits of an untrained model.
    """
    head = output_head(model)
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
        # On the CPU, because layers may be on several GPUs.
        and torch.equal(logits.float().cpu(), seen["logits"].float().cpu())
        and torch.equal(hidden.cpu(), seen["hidden"].cpu())
    )
