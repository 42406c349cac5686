"""No code of a model's or tokenizer's folder is run, and no pickle of it is read."""

import ast
import json
from pathlib import Path

import pytest
import torch
from support.models import small_model

import s2l_ray
from s2l_ray.config import ModelConfig
from s2l_ray.corpus.tokenization import _loaded
from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.models.loading import initial_model, load_model
from s2l_ray.models.memory import config_of

TRAP = """
from pathlib import Path
Path({sprung!r}).touch()
"""


def test_every_load_refuses_code_and_every_model_is_safetensors():
    loads = []
    for file in Path(s2l_ray.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                place = f"{file.name}:{node.lineno}"
                assert given.get("trust_remote_code") == "False", place
                if "ForCausalLM" in ast.unparse(node.func):
                    assert given.get("use_safetensors") == "True", place
                loads.append(place)
    assert len(loads) >= 8


@pytest.fixture
def trapped(tmp_path):
    """A folder of a model and tokenizer that ask for code, which leaves a file when it is run."""
    folder, sprung = tmp_path / "trapped", tmp_path / "sprung"
    folder.mkdir()
    for name in ("modeling_trap", "configuration_trap", "tokenization_trap"):
        (folder / f"{name}.py").write_text(TRAP.format(sprung=str(sprung)))
    auto_map = {
        "AutoConfig": "configuration_trap.C",
        "AutoModelForCausalLM": "modeling_trap.M",
        "AutoTokenizer": ["tokenization_trap.T", None],
    }
    config = {"model_type": "trap", "architectures": ["Trap"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Trap", "auto_map": auto_map})
    )
    yield folder
    assert not sprung.exists()


def test_code_in_a_folder_is_never_run(trapped, store):
    store.upload(trapped, "tokenizers/t")
    model = ModelConfig(name=str(trapped))
    for load in (
        lambda: load_tokenizer(store, "tokenizers/t"),
        lambda: _loaded(str(trapped)),
        lambda: config_of(model),
        lambda: initial_model(model, None, seed=0),
        lambda: load_model(trapped),
    ):
        with pytest.raises(ValueError):
            load()


def test_pickled_weights_are_refused(tmp_path):
    model = small_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises((ValueError, OSError), match="safetensors"):
        initial_model(ModelConfig(name=str(tmp_path)), None, seed=0)
    with pytest.raises(ValueError, match="safetensors"):
        load_model(tmp_path)
