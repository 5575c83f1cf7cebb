"""A run on a base whose transformer and text encoder are GGUF files: the LoRA, and what is said of the base."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from gguf_forms import as_comfyui, as_llama_cpp, rounded, vocabulary, write_gguf
from run_support import begin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer
from transformers import Gemma3TextConfig, Gemma3TextModel

from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.weights.parts import TRANSFORMER
from sonolora.ltx.weights.registry import Entry, register


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """Of the size that `tiny` takes, in Q8_0."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a tone, number one", "t0ne a low tone"] * 9), model_writer=model, minloglevel=2,
        model_type="bpe", vocab_size=290, byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False,
        normalization_rule_name="identity", pad_id=0, eos_id=1, bos_id=2, unk_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    sizes = {"vocab_size": 290, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 4}
    config = Gemma3TextConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
    tensors = as_llama_cpp(Gemma3TextModel(config).state_dict())
    path = tmp_path_factory.mktemp("gemma") / "gemma-3-12b-it-Q8_0.gguf"
    fields = vocabulary(model.getvalue(), (), ())
    return write_gguf(path, tensors, as_comfyui("Q8_0"), architecture="gemma3", fields=fields)


@pytest.fixture(autouse=True)
def _bases(shallow_base, gemma, tmp_path, monkeypatch):
    """Registered: one with a GGUF transformer, and one with the weights that its blocks stand for."""
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    source, kind_of = shallow_base / "shallow.safetensors", as_comfyui("Q8_0")
    tensors = load_file(source)
    with safe_open(source, "pt") as file:
        header = file.metadata()
    own = {name.removeprefix(TRANSFORMER): t for name, t in tensors.items() if name.startswith(TRANSFORMER)}
    others = {name: t for name, t in tensors.items() if not name.startswith(TRANSFORMER)}
    save_file(others, tmp_path / "others.safetensors", header)
    transformer = write_gguf(tmp_path / "ltx-2.3-22b-dev-Q8_0.gguf", own, kind_of)
    values = {TRANSFORMER + name: rounded(t, kind_of(name, t)) for name, t in own.items()}
    save_file({**others, **values}, tmp_path / "meant.safetensors", header)
    register("quantised", Entry(transformer, gemma, (tmp_path / "others.safetensors",)))
    register("meant", Entry(tmp_path / "meant.safetensors", gemma))


@pytest.fixture
def trained(body, settings, tmp_path):
    def trained(name, progress):
        folder = tmp_path / name
        begin("t2a", {**body, "number_of_steps": 2}, replace(settings, base=name), folder, progress)
        return folder

    return trained


def test_the_format_is_named(trained, recorded):
    folder = trained("quantised", recorded)
    said = "the base's weights are stored as GGUF Q8_0: a LoRA trained on them"
    assert any(said in text for text in recorded.messages)
    assert open_lora(folder / "lora.safetensors").metadata["base_precision"] == "GGUF Q8_0"
    assert json.loads((folder / "report.json").read_text())["base"]["precision"] == "GGUF Q8_0"


@pytest.mark.slow
def test_the_lora_is_the_one_of_the_weights_that_the_blocks_stand_for(trained, silent):
    quantised, meant = (load_file(trained(name, silent) / "lora.safetensors") for name in ("quantised", "meant"))
    assert all(torch.equal(tensor, meant[name]) for name, tensor in quantised.items())
