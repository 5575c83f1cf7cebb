"""Gemma 3 layer by layer: the very states of transformers' whole model, from a fraction of its memory."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma3TextModel,
    SiglipVisionConfig,
)

from sonolora.core.errors import CheckpointError
from sonolora.ltx.text.language_model import open_language_model, tensor_shapes
from sonolora.ltx.weights import checkpoint as checkpoint_module
from sonolora.planning.allocations import Allocations

CPU, F32, BF16 = torch.device("cpu"), torch.float32, torch.bfloat16
WINDOW = 16
CONFIG = {
    "vocab_size": 3000,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "sliding_window": WINDOW,
    "rope_parameters": {  # as in the published one, where full attention turns eight times as slowly
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
EMBEDDINGS = "embed_tokens.weight"


def make_model() -> Gemma3TextModel:
    """Random, also in the norms, which transformers makes with zeros."""
    torch.manual_seed(0)
    model = Gemma3TextModel(Gemma3TextConfig(**CONFIG))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "norm" in name else 0.2)
    return model


def save(form, folder):
    """A folder in one of the forms that such models are published in."""
    model = make_model()
    if form == "sharded":
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 3
        return
    if form == "alone":
        model.save_pretrained(folder)
        return
    vision = SiglipVisionConfig(**VISION, image_size=28, patch_size=14)
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=model.config, vision_config=vision, mm_tokens_per_image=1)
    )
    whole.model.language_model.load_state_dict(model.state_dict())
    whole.save_pretrained(folder)
    if form == "multimodal, newer names":
        rename(folder, "language_model.model.", "model.language_model.")


def rename(folder, old, new):
    tensors = load_file(folder / "model.safetensors")
    assert any(name.startswith(old) for name in tensors)
    save_file(
        {name.replace(old, new): tensor for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


@pytest.fixture
def folder(tmp_path):
    save("alone", tmp_path)
    return tmp_path


def prompts(*lengths):
    random = torch.Generator().manual_seed(1)
    return [torch.randint(CONFIG["vocab_size"], (length,), generator=random).tolist() for length in lengths]


@torch.no_grad()
def states(folder, texts, dtype=F32):
    """By prompt, then by state."""
    found = [[] for _ in texts]
    for index, which, state in open_language_model(folder, device=CPU, dtype=dtype).states(texts):
        assert len(found[which]) == index
        found[which].append(state)
    return found


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("form", ["alone", "sharded", "multimodal", "multimodal, newer names"])
def test_states_are_those_of_the_whole_model(form, dtype, tmp_path):
    """Bit for bit, for prompts shorter and longer than the window of sliding attention."""
    save(form, tmp_path)
    texts = prompts(7, 1, WINDOW - 1, WINDOW, WINDOW + 1, 50, 7)
    whole = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    whole = getattr(whole, "language_model", whole)
    for parameter in whole.parameters():
        parameter.data = parameter.data.clone()  # it is mapped from the file, and where memory begins tells in sums
    for text, found in zip(texts, states(tmp_path, texts, dtype), strict=True):
        with torch.no_grad():
            expected = whole(torch.tensor([text]), use_cache=False, output_hidden_states=True)
        assert len(found) == len(expected.hidden_states) == CONFIG["num_hidden_layers"] + 1
        for state, should in zip(found, expected.hidden_states, strict=True):
            assert torch.equal(state, should)
        assert torch.equal(found[-1], expected.last_hidden_state)


def test_the_window_is_felt(folder):
    """Or the test above would not see a wrong one."""
    text = prompts(WINDOW + 1)[0]
    other = [(text[0] + 1) % CONFIG["vocab_size"], *text[1:]]
    one, two = states(folder, [text, other])
    assert torch.equal(one[1][:, -1], two[1][:, -1]), "the first token is out of the last one's window"
    assert not torch.equal(one[1][:, -2], two[1][:, -2])


def test_a_prompt_alone_and_among_others(folder):
    texts = prompts(9, 40, 9, 3)
    for text, among in zip(texts, states(folder, texts), strict=True):
        (alone,) = states(folder, [text])
        assert all(torch.equal(one, other) for one, other in zip(alone, among, strict=True))


def test_what_is_read_and_held(folder, monkeypatch):
    """Every layer once for all prompts, of the table of embeddings the rows in use; never two layers at a time."""
    monkeypatch.setattr(checkpoint_module, "_CHUNK_BYTES", 4096)
    read = []
    real = checkpoint_module._fill

    def fill(tensor, file, info, *rest):
        read.append(info.end - info.start)
        real(tensor, file, info, *rest)

    monkeypatch.setattr(checkpoint_module, "_fill", fill)
    model = open_language_model(folder, device=CPU, dtype=F32)
    text = [5, 6, 5, 7]
    with torch.no_grad(), Allocations("cpu") as live:
        for _ in model.states([text, text, [5]]):
            pass
    sizes = {name: 4 * torch.Size(shape).numel() for name, shape in tensor_shapes(model.config).items()}
    assert sum(read) == sum(sizes.values()) - sizes[EMBEDDINGS] + 3 * 4 * CONFIG["hidden_size"]
    layer = sum(size for name, size in sizes.items() if name.startswith("layers.0."))
    assert layer < live.peak < 2 * layer
    assert live.now < layer, "the last layer is gone"


def change(folder, name, tensor):
    tensors = load_file(folder / "model.safetensors")
    assert name in tensors
    tensors.pop(name)
    save_file(tensors if tensor is None else {**tensors, name: tensor}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("layers.2.mlp.up_proj.weight", None, r"layers\.2\.mlp\.up_proj\.weight is missing"),
        ("norm.weight", None, r"norm\.weight is missing"),
        (EMBEDDINGS, None, r"embed_tokens\.weight is missing"),
        ("layers.1.self_attn.q_norm.weight", torch.ones(5), r"q_norm\.weight is \(5,\), expected \(12,\)"),
    ],
)
def test_what_does_not_fit_is_named(name, tensor, words, folder):
    change(folder, name, tensor)
    with pytest.raises(CheckpointError, match=f"{folder.name}.*{words}"):
        open_language_model(folder, device=CPU, dtype=F32)


def test_a_missing_part(tmp_path):
    save("sharded", tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    gone = min(json.loads(index.read_text())["weight_map"].values())
    (tmp_path / gone).unlink()
    with pytest.raises(CheckpointError, match=f"{gone}: cannot be read"):
        open_language_model(tmp_path, device=CPU, dtype=F32)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="not a tensor index"):
        open_language_model(tmp_path, device=CPU, dtype=F32)


def test_a_tokenizer_of_another_model(folder):
    with pytest.raises(CheckpointError, match=r"token 3000, but embed_tokens\.weight has 3000 rows"):
        states(folder, [[2, 3000]])
