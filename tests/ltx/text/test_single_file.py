"""Gemma 3 in one file: the states of the whole model of transformers, and the tokens of SentencePiece."""

from __future__ import annotations

import io

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import Gemma3TextConfig, Gemma3TextModel

from sonolora.core.errors import CheckpointError
from sonolora.ltx.text.language_model import open_language_model, read_text_config
from sonolora.ltx.text.single_file import gemma_config
from sonolora.ltx.text.text_encoder import load_text_encoder, load_tokenizer
from sonolora.ltx.weights import base as base_module
from sonolora.ltx.weights.base import add_base, find_base
from sonolora.ltx.weights.verify import Findings, verify_text_encoder

CPU, F32 = torch.device("cpu"), torch.float32
TEXTS = ["a dog barks softly in the rain", "footsteps on gravel,\n\nthen  a door", "日本語 ŋ"]
# As published with google/gemma-3-12b-it, apart from its sizes.
PUBLISHED = {
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
}
SIZES = {
    "vocab_size": 340,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
}


@pytest.fixture(scope="module")
def spiece() -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=model, model_type="bpe", vocab_size=SIZES["vocab_size"],
        byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, minloglevel=2,
        normalization_rule_name="identity", pad_id=0, eos_id=1, bos_id=2, unk_id=3, user_defined_symbols=["\n\n"],
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="module")
def model() -> Gemma3TextModel:
    torch.manual_seed(0)
    return Gemma3TextModel(Gemma3TextConfig(**SIZES, **PUBLISHED)).eval().bfloat16()


@pytest.fixture
def single(spiece, model, tmp_path):
    def write(change=lambda tensors: tensors, name="gemma"):
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors["spiece_model"] = torch.tensor(list(spiece), dtype=torch.uint8)
        path = tmp_path / f"{name}.safetensors"
        save_file(change(tensors), path, {"format": "pt"})
        return path

    return write


def states_of(path, prompts):
    language_model = open_language_model(path, device=CPU, dtype=F32)
    found: dict[int, list] = {}
    for _, prompt, state in language_model.states(prompts):
        found.setdefault(prompt, []).append(state)
    return [torch.stack(found[prompt]) for prompt in range(len(prompts))]


def test_states_are_those_of_transformers(single, model):
    """Layers of both kinds, with the positions of each."""
    prompts = [[2, 17, 5, 300], list(range(2, 90))]
    whole = Gemma3TextModel(model.config)
    whole.load_state_dict(model.state_dict())
    for prompt, found in zip(prompts, states_of(single(), prompts), strict=True):
        with torch.no_grad():
            expected = whole.eval()(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_config_is_the_published_one(single):
    config = read_text_config(single())
    expected = Gemma3TextConfig(**SIZES, **PUBLISHED)
    for name in (*SIZES, "rope_parameters", "layer_types", "sliding_window", "rms_norm_eps", "hidden_activation"):
        assert getattr(config, name) == getattr(expected, name), name


def test_8_bit_weights_are_read_as_meant(single):
    """Scaled by one number or by one for each row, also of the embeddings."""

    def scaled(tensors):
        meant = {}
        for name in [name for name in tensors if name.endswith(("proj.weight", "embed_tokens.weight"))]:
            weight = tensors[name].float()
            rows = "embed" in name or "q_proj" in name
            scale = weight.abs().amax(1, keepdim=True) / 448 if rows else weight.abs().max() / 448
            tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[f"{name.removesuffix('.weight')}.scale_weight"] = scale
            meant[name] = tensors[name].float() * scale
        return tensors, meant

    prompts = [[2, 17, 5, 300]]
    fp8 = states_of(single(lambda tensors: scaled(tensors)[0], "fp8"), prompts)[0]
    exact = states_of(single(lambda tensors: {**tensors, **scaled(dict(tensors))[1]}, "meant"), prompts)[0]
    torch.testing.assert_close(fp8, exact, rtol=1e-5, atol=1e-6)


def test_tokens_are_those_of_sentencepiece(single, spiece, checkpoint):
    tokenizer = load_tokenizer(checkpoint, single())
    processor = SentencePieceProcessor(model_proto=spiece)
    for text in TEXTS:
        assert tokenizer.tokens(f" {text} ") == [2, *processor.encode(text)]
    assert tokenizer.max_tokens == 1024


@pytest.fixture
def fitting(single, checkpoint):
    """With as many states of as many channels as the golden checkpoint needs."""
    config = checkpoint.section("transformer")
    text = "text_embedding_projection.audio_aggregate_embed.weight"
    states = checkpoint.tensors[text].shape[1] // config["caption_channels"]
    assert config["caption_channels"] == SIZES["hidden_size"]

    def fewer(tensors):
        return {
            name: value
            for name, value in tensors.items()
            if ".layers." not in name or int(name.split(".")[2]) < states - 1
        }

    return single(fewer)


def test_it_is_a_text_encoder_of_a_base(fitting, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    monkeypatch.setattr(base_module, "verify", lambda *_: Findings(()))
    monkeypatch.setattr(
        base_module, "verify_text_encoder", lambda path, **_: verify_text_encoder(path, states=5, channels=24)
    )
    add_base("one", [str(checkpoint.path)], str(fitting))
    base = find_base("one")
    encoder = load_text_encoder(base.checkpoint, base.text_encoder, video=False, device=CPU, dtype=F32)
    first, second = encoder.encode(TEXTS[:2])
    assert first.audio.isfinite().all() and (first.audio - second.audio).abs().max() > 1e-3
    fingerprint = base.fingerprint
    tensors = load_file(fitting)
    tensors["spiece_model"][-1] += 1
    save_file(tensors, fitting)
    assert find_base("one").fingerprint != fingerprint
    fitting.unlink()
    with pytest.raises(CheckpointError, match="the text encoder is no longer at"):
        find_base("one")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: {**tensors, "spiece_model": None}, "no tokenizer in it (tensor spiece_model)"),
        (lambda tensors: tensors, "8 hidden states of width 24, expected 49 of width 3840"),
        (lambda tensors: {"spiece_model": tensors["spiece_model"]}, "1 hidden states of width 0"),
        (lambda tensors: {**tensors, "model.layers.0.mlp.up_proj.weight": torch.zeros(4, dtype=torch.uint8)}, "4 bits"),
    ],
)
def test_faults_are_named(change, words, single):
    def kept(tensors):
        return {name: value for name, value in change(tensors).items() if value is not None}

    (fault,) = verify_text_encoder(single(kept))
    assert words in fault


def test_files_of_other_models_are_refused(tmp_path, checkpoint):
    (tmp_path / "gemma.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(64))
    (fault,) = verify_text_encoder(tmp_path / "gemma.gguf")
    assert "not a readable GGUF file (it has no tensors)" in fault
    with pytest.raises(CheckpointError, match="not a text encoder of Gemma 3"):
        gemma_config(checkpoint)
    save_file({"spiece_model": torch.zeros(9, dtype=torch.uint8)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="spiece_model is not a SentencePiece model"):
        load_tokenizer(checkpoint, tmp_path / "x.safetensors")
