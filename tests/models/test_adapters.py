"""Adapters: put into a model, saved, loaded, exchanged, merged; and what is refused."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from support.lora import base_in, by_peft, config_of, train
from support.models import SHAPES, random_tokens, small_model
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import ModelConfig, WorkersConfig
from s2l_ray.models import adapters
from s2l_ray.models.adapters import check_lora, model_with_adapters, save_adapter
from s2l_ray.models.batch import examples_of, pad
from s2l_ray.models.held import HeldModel
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.origin import origin_of
from s2l_ray.models.properties import parameters_at_work, unreached
from s2l_ray.scoring.scorer import score_table
from s2l_ray.store.checksums import checksum_of_folder
from s2l_ray.training.engines.shared import copy_merged


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_in(tmp_path_factory.mktemp("base") / "model")


def written(folder, base, lora=None, *, seed=0, kind="llama", **model):
    """An adapter with weights that change the model, in a folder; the adapted model."""
    config = config_of(base, lora or {"target_modules": "all-linear"}, **model)
    adapted = model_with_adapters(config, config.model, seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.add_(torch.randn(weights.shape, generator=random) * 0.05)
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(adapted, adapted.state_dict(), str(folder))
    return adapted


@pytest.fixture
def batch():
    return pad(examples_of(random_tokens(4)), torch.device("cpu"))


def losses(model, batch):
    return LabelLoss(model).eval()(*batch).detach()


KINDS = {
    "dora": ("llama", {"target_modules": ["q_proj"], "use_dora": True}),
    "rslora": ("phi", {"target_modules": None, "use_rslora": True}),
    "conv1d": ("gpt2", {"target_modules": "all-linear"}),
    "the head": ("llama", {"target_modules": ["lm_head", "k_proj"]}),
    "whole modules": ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "an expression": ("llama", {"target_modules": r"model\.layers\.1\.mlp\..*_proj"}),
}


@pytest.mark.parametrize("how", KINDS)
def test_an_adapter_loads_here_and_in_peft_and_merges(how, store, tmp_path, batch):
    kind, lora = KINDS[how]
    base, folder = base_in(tmp_path / "base", kind), tmp_path / "adapter"
    model = written(folder, base, lora)
    expected = losses(model, batch)
    assert LabelLoss(model).head_apart == (how != "the head")
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert (expected - losses(plain, batch)).abs().max() > 1e-3
    own = HeldModel(store, WorkersConfig()).load(str(folder)).model
    assert torch.equal(losses(own, batch), expected)
    by_peft = peft.AutoPeftModelForCausalLM.from_pretrained(folder).get_base_model()
    assert torch.equal(losses(by_peft, batch), expected)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    merged = tmp_path / "merged"
    loss = LabelLoss(model)
    copy_merged(loss, loss.state_dict(), lambda _: nullcontext())(str(merged))
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (
        load_file(merged / "model.safetensors").keys()
        == load_file(f"{base}/model.safetensors").keys()
    )
    found = losses(AutoModelForCausalLM.from_pretrained(merged), batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_signals_of_an_adapted_head_are_those_of_the_merged_model(tmp_path):
    model = written(tmp_path, base_in(tmp_path / "base"), {"target_modules": ["q_proj", "lm_head"]})
    merged = tmp_path / "merged"
    adapters.merged(model, model.state_dict(), lambda _: nullcontext())(str(merged))
    names = ["confidence", "el2n", "features", "grad_norm"]
    found, expected = (
        score_table(random_tokens(6), LabelLoss(each), signals=names)
        for each in (model, AutoModelForCausalLM.from_pretrained(merged))
    )
    for name in ["loss", *names]:
        pair = [torch.tensor(table[name].to_pylist()) for table in (found, expected)]
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5, msg=name)


def test_the_base_stays_while_adapters_are_exchanged(base, store, batch, monkeypatch):
    loads, load = [], adapters.initial_model
    monkeypatch.setattr(
        adapters, "initial_model", lambda *a, **how: loads.append(a) or load(*a, **how)
    )
    folders = {step: f"proxy/checkpoint-{step:06d}" for step in (1, 2)}
    expected = {}
    for step, folder in folders.items():
        model = written(Path(store.address(folder)), base, seed=step)
        expected[step] = losses(model, batch)
    other = {"target_modules": "all-linear", "alpha": 80}
    wide = losses(written(Path(store.address("wide")), base, other), batch)
    loads.clear()
    model = HeldModel(store, WorkersConfig())
    for step in (1, 2, 1):
        assert torch.equal(model.load(folders[step])(*batch), expected[step])
        assert model.checksum == checksum_of_folder(store.address(folders[step]))
    assert len(loads) == 1
    assert torch.equal(model.load("wide")(*batch), wide)  # another alpha is another model
    assert len(loads) == 2
    small_model("gpt_neox", seed=1).save_pretrained(store.address("whole"))
    whole = model.load("whole")
    assert not adapters.is_adapted(whole.model)
    assert torch.equal(model.load(folders[2])(*batch), expected[2])


def test_an_adapter_that_does_not_fit_is_refused_and_not_held(base, store, batch):
    good = written(Path(store.address("good")), base)
    written(Path(store.address("bad")), base)
    file = Path(store.address("bad"), "adapter_model.safetensors")
    weights = load_file(file)
    name = min(weights)

    def refused(weights, message):
        save_file(weights, file)
        model = HeldModel(store, WorkersConfig())
        for first in ((), ("good",)):  # as the first model, and in exchange for another
            for folder in first:
                model.load(folder)
            with pytest.raises(ValueError, match=message):
                model.load("bad")
        assert torch.equal(model.load("good")(*batch), losses(good, batch))

    short = name.removeprefix("base_model.model.")
    refused({k: v for k, v in weights.items() if k != name}, f"missing weights {short} .1 in all")
    refused(weights | {f"{name}s": weights[name].clone()}, "unexpected weights .* .1 in all")
    refused(weights | {name: weights[name][:-1].clone()}, r"of size \[7, 64\], expected \[8, 64\]")
    file.write_bytes(b"no adapter")
    with pytest.raises(ValueError, match="bad: not a complete adapter"):
        HeldModel(store, WorkersConfig()).load("bad")
    Path(store.address("bad"), "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json: damaged"):
        HeldModel(store, WorkersConfig()).load("bad")


def test_the_base_of_a_hub_model_comes_from_the_run(base, store, batch, tmp_path, monkeypatch):
    hub = ModelConfig(name="team/model", revision="v1")
    config = config_of(base, model={"name": hub.name, "revision": hub.revision})
    model = model_with_adapters(config, ModelConfig(name=base), seed=1)
    folder = Path(store.address("proxy"))
    folder.mkdir(parents=True)
    save_adapter(model, model.state_dict(), str(folder))
    told = json.loads((folder / "adapter_config.json").read_bytes())
    assert (told["base_model_name_or_path"], told["revision"]) == ("team/model", "v1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"does not have the adapter's base 'team/model'"):
        HeldModel(store, WorkersConfig()).load("proxy")
    files = store.upload(base, origin_of(hub))
    store.commit(origin_of(hub), "f", files, {})
    loss = HeldModel(store, WorkersConfig()).load("proxy")
    assert torch.equal(loss(*batch), losses(model, batch))


@pytest.mark.parametrize(
    "lora, message",
    [
        ({"target_modules": ["q_proj", "w1"]}, r"no module named 'w1'; .* k_proj, o_proj, q_proj"),
        ({"target_modules": "q_proj"}, r"no module of this llama matches 'q_proj' from the start"),
        ({"target_modules": ["norm"]}, r"lora\.target_modules: .*LlamaRMSNorm.* is not supported"),
        (
            {"modules_to_save": ["score"]},
            r"modules_to_save: .*'score'; .* modules embed_tokens, lm_head",
        ),
    ],
)
def test_modules_that_the_model_lacks_are_refused_from_its_config_alone(base, lora, message):
    shape = AutoConfig.from_pretrained(base).to_dict()
    with pytest.raises(ValueError, match=message):
        check_lora(config_of("team/model", lora), shape)
    check_lora(config_of("team/model"), shape)


def test_a_type_without_peft_s_defaults_needs_names():
    shape = SHAPES["granite"] | {"model_type": "granite"}
    with pytest.raises(ValueError, match=r"no default for granite; set it to all-linear or"):
        check_lora(config_of("team/model", {"target_modules": None}), shape)
    check_lora(config_of("team/model", {"target_modules": "all-linear"}), shape)


def test_a_vision_tower_gets_no_adapter():
    text = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300}
    vision = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64}
    vision |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 16}
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert unreached(model) == ["model.vision_tower", "model.multi_modal_projector"]
    lora = config_of("base", {"target_modules": "all-linear"}).lora
    adapters._inject(model, adapters._peft_config(model, ModelConfig(name="base"), lora))
    trained = [name for name, weights in model.named_parameters() if weights.requires_grad]
    assert trained and all("language_model" in name for name in trained)


def test_four_bits_are_the_same_in_training_and_scoring(store, tmp_path):
    """On a CPU, where bitsandbytes has kernels too."""
    base = base_in(tmp_path / "base")
    config = config_of(base, quantize="4bit")
    folder = Path(store.address("qlora"))
    found, (expected, weights) = train(config, folder), by_peft(config, four_bits=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    saved = load_file(folder / "adapter_model.safetensors")
    for name, tensor in weights.items():
        torch.testing.assert_close(saved[name], tensor, rtol=0, atol=2e-6)
    model = HeldModel(store, WorkersConfig()).load("qlora").model
    assert (
        model.get_submodule("model.layers.0.self_attn.q_proj").base_layer.weight.dtype
        == torch.uint8
    )
    # The step that a resumed training would make first has the loss that scoring finds.
    again = model_with_adapters(config, config.model, seed=0)
    adapters.swap(again, str(folder))
    batch = pad(examples_of(random_tokens(4)), torch.device("cpu"))
    assert torch.equal(losses(model, batch), losses(again, batch))
    # Frozen weights are rounded to 4 bits, and no more than that.
    plain = peft.AutoPeftModelForCausalLM.from_pretrained(folder).get_base_model()
    difference = (losses(model, batch) - losses(plain, batch)).abs().mean()
    assert 1e-3 < difference < 0.5
    told = json.loads((folder / "base_config.json").read_bytes())
    whole = json.loads(Path(base, "config.json").read_bytes())
    assert parameters_at_work(told, 0.5) == parameters_at_work(whole, 0.5)
