"""A causal language model from a hub name, a folder or a config (from scratch), and its loss.

B examples, L tokens, V vocabulary, M label tokens of a batch.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import RepositoryNotFoundError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2l_ray.batches import Example
from s2l_ray.config import ModelConfig, WorkersConfig
from s2l_ray.tokenization import check_weights

LOGITS_AT_ONCE = 1 << 26  # elements of an [M, V] block in training: 256 MB in fp32. Blocks stay
# for the backward pass, or are made anew there, one at a time.
VOCABULARY_BLOCK = 2048  # logits of a label token that scoring looks at together


def device_of(workers: WorkersConfig) -> torch.device:
    """The device of one worker's model; on a CPU torch gets the worker's threads."""
    no_tf32()
    if workers.gpus_per_worker:
        return torch.device("cuda")
    torch.set_num_threads(max(1, int(workers.cpus_per_worker)))
    return torch.device("cpu")


def no_tf32() -> None:
    """A GPU's fp32 is to be fp32: in matrix products, and in convolutions (of Mamba, say)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def memory_told(where: str, what: str, advice: str) -> Iterator[None]:
    """A GPU without memory as a ValueError that says for what, and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"{where}: no memory on the GPU for {what} ({error}); {advice}") from error


def initial_model(model: ModelConfig, tokenizer: Any, *, seed: int) -> PreTrainedModel:
    """The model before training, fp32 (training keeps fp32 master weights). Seeds from-scratch.
    ValueError for a folder or hub model that lacks a weight."""
    if model.architecture is None:
        assert model.name is not None
        here: dict[str, Any] = {"revision": model.revision, "trust_remote_code": False}
        try:
            check_weights(AutoConfig.from_pretrained(model.name, **here))
            found, info = AutoModelForCausalLM.from_pretrained(
                model.name, dtype=torch.float32, output_loading_info=True, **here
            )
        except OSError as error:
            if not isinstance(error.__cause__, RepositoryNotFoundError):  # gated ones are some
                raise
            # The driver has seen it: what this node lacks is a right to it.
            raise ValueError(
                f"model: {model.name!r} cannot be read on node {socket.gethostname()} (a gated "
                f"one needs HF_TOKEN in the environment of every node's workers): {error}"
            ) from error
        if names := sorted(info["missing_keys"]):  # transformers fills in random numbers
            raise ValueError(
                f"{model.name}: not a whole model: missing weights {names[0]} ({len(names)} such)"
            )
        return found
    fields = {"vocab_size": len(tokenizer)} | model.architecture
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.setdefault(name, getattr(tokenizer, name))
    if fields["vocab_size"] < len(tokenizer):
        raise ValueError(
            f"architecture: vocab_size {fields['vocab_size']} is less than the tokenizer's "
            f"{len(tokenizer)} tokens"
        )
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    # What a config does not know it keeps as one more attribute, and no model reads it.
    kept, default = config.to_dict(), type(config)()
    unknown = sorted(name for name in fields if name in kept and not hasattr(default, name))
    if unknown:
        raise ValueError(f"architecture: {config.model_type} has no field {', '.join(unknown)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).float()


def load_model(folder: str | Path, *, dtype: str = "float32") -> PreTrainedModel:
    """A model from a local folder in Hugging Face format; safetensors only, no code from it.

    ValueError for a folder that lacks a file or a weight, or holds a damaged one.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # of transformers, huggingface_hub, safetensors and torch
        raise ValueError(f"{folder}: not a whole model: {error}") from error
    # transformers fills what is missing with random numbers and drops what it has no place for.
    for kind in ("missing_keys", "unexpected_keys"):
        if names := sorted(info[kind]):
            raise ValueError(
                f"{folder}: not a whole model: {kind.replace('_keys', '')} weights {names[0]} "
                f"({len(names)} such)"
            )
    return model


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


class LabelLoss(nn.Module):
    """Cross-entropy at the label tokens alone: what training sums and scoring averages.

    forward(input_ids_BL, loss_mask_BL) -> losses_M, fp32, in row order: the loss of each label
    token given the tokens before it. Rows are padded on the right; causal attention keeps the
    padding out of the real tokens, so no attention mask is needed.

    The output head runs at label positions only, where the model lets it (`head_apart`). Models
    that do more to their logits (scaling, soft-capping) take the whole forward pass. Of a model for
    more than text (Gemma 3) the rest is frozen. ValueError for one whose tokens see later ones.

    anew: the head's logits are made again for the backward pass, and not kept for it.
    """

    def __init__(self, model: PreTrainedModel, *, anew: bool = False) -> None:
        super().__init__()
        _check_causal(model)
        _freeze_unreached(model)
        self.model, self.anew = model, anew
        self.head_apart = _head_is_apart(model)

    def forward(self, input_ids_BL: Tensor, loss_mask_BL: Tensor) -> Tensor:
        picked_BL = loss_mask_BL[:, 1:]
        targets_M = input_ids_BL[:, 1:][picked_BL]
        if not self.head_apart:
            logits_BLV = self.model(input_ids=input_ids_BL, use_cache=False).logits
            return F.cross_entropy(
                logits_BLV[:, :-1][picked_BL].float(), targets_M, reduction="none"
            )
        hidden_MD = self.hidden(input_ids_BL, picked_BL)
        if not torch.is_grad_enabled():
            return over_vocabulary(logits_by_block(self.head, hidden_MD), targets_M).losses_M
        losses: Any = self._losses
        rows = max(1, LOGITS_AT_ONCE // self.model.config.get_text_config().vocab_size)
        if hasattr(self.head.weight, "ds_id"):
            # ZeRO-3: a call gathers the weights from all workers, so that all must make as many.
            rows = max(1, len(targets_M))
        elif self.anew:
            losses = partial(checkpoint, self._losses, use_reentrant=False)
        return torch.cat(
            [
                losses(hidden, targets)
                for hidden, targets in zip(
                    hidden_MD.split(rows), targets_M.split(rows), strict=True
                )
            ]
        )

    def _losses(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        return F.cross_entropy(self.head(hidden_MD).float(), targets_M, reduction="none")

    @property
    def head(self) -> Any:
        """The output head, or None if the model does not tell it."""
        return self.model.get_output_embeddings()

    def hidden(self, input_ids_BL: Tensor, picked_BL: Tensor) -> Tensor:
        """[M, D]: what goes into a head that is apart, at the positions before the picked."""
        hidden_BLD = self.model.base_model(
            input_ids=input_ids_BL, use_cache=False
        ).last_hidden_state
        return hidden_BLD[:, :-1][picked_BL]


class OverVocabulary(NamedTuple):
    """What the logits of M label tokens come to; the last two only where asked for."""

    log_sum_M: Tensor  # of their exponentials
    target_M: Tensor  # the label token's own logit
    largest_M: Tensor | None
    log_squares_M: Tensor | None  # of the squared exponentials, the label token's left out

    @property
    def losses_M(self) -> Tensor:
        return self.log_sum_M - self.target_M


def logits_by_block(head: nn.Linear, hidden_MD: Tensor) -> Iterator[Tensor]:
    """The head's logits [M, V], fp32, a block of the vocabulary at a time.

    Blocks of logits are used up while they are in the caches; [M, V] of them would go to memory
    and back several times.
    """
    for first in range(0, head.out_features, VOCABULARY_BLOCK):
        block = slice(first, first + VOCABULARY_BLOCK)
        bias = None if head.bias is None else head.bias[block]
        yield F.linear(hidden_MD, head.weight[block], bias).float()


def over_vocabulary(
    blocks: Iterable[Tensor], targets_M: Tensor, *, beyond: bool = False
) -> OverVocabulary:
    """One pass over blocks of logits. `beyond`: also what the loss does not need."""
    sums, largest, squares, first = list[Tensor](), list[Tensor](), list[Tensor](), 0
    target_M = torch.zeros(len(targets_M), device=targets_M.device)
    for logits_MV in blocks:
        # Any column gives the logarithm of the sum: log_softmax is one pass, logsumexp several.
        sums.append(logits_MV[:, 0] - logits_MV.log_softmax(1)[:, 0])
        place_M, inside_M = places_in_block(targets_M, first, logits_MV)
        found_M = logits_MV.gather(1, place_M[:, None])[:, 0]
        target_M = torch.where(inside_M, found_M, target_M)
        if beyond:
            largest.append(logits_MV.amax(1))
            own_M = torch.where(inside_M, -torch.inf, found_M)
            others_MV = logits_MV.scatter(1, place_M[:, None], own_M[:, None])
            squares.append((2 * others_MV).logsumexp(1))
        first += logits_MV.shape[1]
    return OverVocabulary(
        torch.stack(sums).logsumexp(0),
        target_M,
        torch.stack(largest).amax(0) if beyond else None,
        torch.stack(squares).logsumexp(0) if beyond else None,
    )


def places_in_block(targets_M: Tensor, first: int, block_MV: Tensor) -> tuple[Tensor, Tensor]:
    """The column of each label token in a block that begins at token `first`, and whether it has
    one there; the others' is 0."""
    place_M = targets_M - first
    inside_M = (place_M >= 0) & (place_M < block_MV.shape[1])
    return torch.where(inside_M, place_M, 0), inside_M


def pad(examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """input_ids int64 [B, L] padded with 0 on the right, and loss_mask bool [B, L]."""
    longest = max(len(ids) for ids, _ in examples)
    input_ids_BL = torch.zeros(len(examples), longest, dtype=torch.int64)
    loss_mask_BL = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, (ids, mask) in enumerate(examples):
        input_ids_BL[row, : len(ids)] = torch.from_numpy(ids)
        loss_mask_BL[row, : len(ids)] = torch.from_numpy(mask)
    return input_ids_BL.to(device), loss_mask_BL.to(device)


def _trial_ids(model: PreTrainedModel) -> Tensor:
    return torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size


def _check_causal(model: PreTrainedModel) -> None:
    """Some encoders load as language models all the same: their loss would be of a given answer."""
    ids, training = _trial_ids(model), model.training
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


def _freeze_unreached(model: PreTrainedModel) -> None:
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


def _head_is_apart(model: PreTrainedModel) -> bool:
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

    ids, training = _trial_ids(model), model.training
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
