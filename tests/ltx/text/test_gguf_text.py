"""Gemma 3 as GGUF: the states of the model that was converted, and the tokens of its SentencePiece model."""

from __future__ import annotations

import io

import pytest
import torch
from gguf_forms import as_comfyui, as_llama_cpp, rounded, vocabulary, write_gguf
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import Gemma3TextConfig, Gemma3TextModel

from sonolora.core.errors import CheckpointError
from sonolora.ltx.text.language_model import open_language_model, read_text_config
from sonolora.ltx.text.text_encoder import load_tokenizer
from sonolora.ltx.weights.base_scan import scan
from sonolora.ltx.weights.comfyui_folders import ModelFolder
from sonolora.ltx.weights.verify import verify_text_encoder

CPU, F32, BF16 = torch.device("cpu"), torch.float32, torch.bfloat16
SIZES = {
    "vocab_size": 420,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
}
PUBLISHED = {
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
}
SPECIAL = ("<start_of_turn>", "<end_of_turn>")
WHOLE = ["▁▁", "▁▁▁", "\n", "\n\n", "\t", "<h1>", *SPECIAL]
SENTENCES = [
    "a dog barks softly in the rain, and then a door creaks open",
    "footsteps on gravel; a car passes at 50 km/h",
    "日本語の声 und ein Glöckchen, très doux — ŋ",
]
TEXTS = [
    *SENTENCES,
    "two  spaces, three   spaces, four    spaces,      many",
    " leading and trailing ",
    "lines\n\n\nand\ttabs\r\n",
    "<start_of_turn>user says <h1>hello</h1><end_of_turn> <bos> <unused7>",
    "emoji 🎻🥁 and ▁ itself, ½ cup, ﬁne ligature, Ａ wide",
    "",
    "x" * 300,
    "".join(chr(code) for code in range(32, 700)),
]


@pytest.fixture(scope="module")
def spiece() -> bytes:
    """With the settings of Gemma's."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20), model_writer=model, model_type="bpe", vocab_size=SIZES["vocab_size"],
        byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, minloglevel=2, split_digits=True,
        normalization_rule_name="identity", pad_id=0, eos_id=1, bos_id=2, unk_id=3, user_defined_symbols=WHOLE,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="module")
def model() -> Gemma3TextModel:
    torch.manual_seed(0)
    model = Gemma3TextModel(Gemma3TextConfig(**SIZES, **PUBLISHED)).eval().bfloat16()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("norm.weight"):
                tensor.copy_(torch.randn_like(tensor) * 0.3)
    return model


@pytest.fixture
def write(spiece, model, tmp_path):
    def write(kind, name="gemma-3-12b-it", fields=None, architecture="gemma3"):
        return write_gguf(
            tmp_path / f"{name}.gguf",
            as_llama_cpp(model.state_dict()),
            as_comfyui(kind),
            architecture=architecture,
            fields=fields or vocabulary(spiece, WHOLE, SPECIAL),
        )

    return write


def states_of(path, dtype=F32):
    language_model = open_language_model(path, device=CPU, dtype=dtype)
    return torch.stack([state for _, _, state in language_model.states([[2, 17, 5, 300, *range(40, 60)]])])


@pytest.fixture
def single(model, tmp_path):
    """The same weights in one safetensors file, each gone through a type."""

    def write(kind):
        kind_of = as_comfyui(kind)
        tensors = {
            f"model.{name}": value if name.endswith("norm.weight") else rounded(value, kind_of(name, value))
            for name, value in model.state_dict().items()
        }
        path = tmp_path / f"{kind}.safetensors"
        save_file(tensors, path)
        return path

    return write


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16", "Q8_0", "Q4_0"])
def test_states_are_those_of_the_converted_model(kind, write, single):
    for dtype in (F32, BF16):
        assert torch.equal(states_of(write(kind), dtype), states_of(single(kind), dtype))


def test_the_config_is_the_published_one(write):
    config = read_text_config(write("Q8_0"))
    expected = Gemma3TextConfig(**SIZES, **PUBLISHED)
    for name in (*SIZES, "rope_parameters", "layer_types", "sliding_window", "rms_norm_eps", "hidden_activation"):
        assert getattr(config, name) == getattr(expected, name), name


def test_tokens_are_those_of_sentencepiece(write, spiece, checkpoint):
    tokenizer = load_tokenizer(checkpoint, write("Q8_0"))
    processor = SentencePieceProcessor(model_proto=spiece)
    for text in TEXTS:
        assert tokenizer.tokens(text) == [2, *processor.encode(text.strip())], text
    used = {token for text in TEXTS for token in tokenizer.tokens(text)}
    assert used >= {processor.piece_to_id(piece) for piece in WHOLE}, "every kind of token occurs"
    assert any(processor.is_byte(token) for token in used)


def test_it_fits_as_a_text_encoder(write, tmp_path):
    path = write("Q8_0")
    assert verify_text_encoder(path, states=8, channels=64) == []
    (fault,) = verify_text_encoder(path)
    assert "8 hidden states of width 64, expected 49 of width 3840" in fault
    (file,) = scan([ModelFolder(tmp_path, "text_encoders")]).files
    assert (file.what, file.precision, file.states) == ("text encoder", "GGUF Q8_0", (8, 64))


def test_other_files_are_named(write, checkpoint):
    (fault,) = verify_text_encoder(write("Q8_0", architecture="gemma4"))
    assert "a GGUF file of type gemma4 (the one of LTX-2.5). LTX-2.3 needs" in fault
    (fault,) = verify_text_encoder(write("Q8_0", fields=lambda _: None))
    assert "no SentencePiece vocabulary in its metadata" in fault
    with pytest.raises(CheckpointError, match="no SentencePiece vocabulary"):
        load_tokenizer(checkpoint, write("Q8_0", fields=lambda writer: writer.add_tokenizer_model("gpt2")))
