"""Finding base models, and the embedded one: complete, in the published form, and sane though untrained."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.audio_utils import mel_filter_bank

from sonolora.core.errors import CheckpointError, SonoloraError
from sonolora.ltx.codec.audio_codec import AudioCodec, load_audio_codec
from sonolora.ltx.codec.video_encoder import load_video_encoder, video_token_midpoints
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.model.transformer import Stream, audio_token_midpoints, load_transformer
from sonolora.ltx.text.text_encoder import load_text_encoder
from sonolora.ltx.weights import base as base_module
from sonolora.ltx.weights.base import Base, find_base

CPU = torch.device("cpu")
F32 = torch.float32
TOOLS = Path(__file__).parents[3] / "tools" / "tiny"


@pytest.fixture(scope="module")
def tiny() -> Base:
    return find_base("tiny")


@pytest.fixture(scope="module")
def codec(tiny) -> AudioCodec:
    return load_audio_codec(tiny.checkpoint, device=CPU)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that looks like a base."""
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors", {"config": "{}"})
    encoder = tmp_path / "text_encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    save_file({"b": torch.ones(3)}, encoder / "model.safetensors")
    return tmp_path


def test_folder(folder):
    base = find_base(str(folder))
    assert base.name == str(folder)
    assert base.checkpoint.path == folder / "model.safetensors"
    assert base.text_encoder == folder / "text_encoder"


def test_fingerprint_follows_every_part(folder):
    def change_text_config():
        (folder / "text_encoder" / "config.json").write_text('{"more": 1}')

    def change_text_weights():
        save_file({"b": torch.zeros(3)}, folder / "text_encoder" / "model.safetensors")

    def change_checkpoint():
        save_file({"a": torch.zeros(3)}, folder / "model.safetensors", {"config": "{}"})

    seen = {find_base(str(folder)).fingerprint}
    assert {find_base(str(folder)).fingerprint} == seen
    for count, change in enumerate((change_text_config, change_text_weights, change_checkpoint), start=2):
        change()
        seen.add(find_base(str(folder)).fingerprint)
        assert len(seen) == count
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved)
    assert find_base(str(moved)).fingerprint in seen


def test_unknown_name():
    with pytest.raises(SonoloraError, match=r"no base 'huge'; known bases: tiny\. .* text_encoder/"):
        find_base("huge")


def test_folder_with_several_checkpoints(folder):
    save_file({"a": torch.ones(3)}, folder / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds one checkpoint .*found: model\.safetensors, other\.safetensors \(.*a are in"
    ):
        find_base(str(folder))


def test_folder_without_checkpoint(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds one checkpoint .*found: none"):
        find_base(str(folder))


def test_folder_without_text_encoder(folder):
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(CheckpointError, match="no text_encoder"):
        find_base(str(folder))


def test_built_in_base_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(base_module, "BUILT_IN", tmp_path)
    with pytest.raises(SonoloraError, match="'tiny' is missing from this installation"):
        find_base("tiny")


def test_tiny_has_the_published_form(tiny, checkpoint):
    """The header has every section and key of the golden one; tables are float32, all else bfloat16."""
    assert tiny.checkpoint.metadata["model_version"] == "2.3.0"
    assert "license" in tiny.checkpoint.metadata
    for name, section in checkpoint.config.items():
        assert section.keys() <= tiny.checkpoint.section(name).keys(), name
    dtypes = {info.dtype for name, info in tiny.checkpoint.tensors.items() if "scale_shift_table" in name}
    others = {info.dtype for name, info in tiny.checkpoint.tensors.items() if "scale_shift_table" not in name}
    assert (dtypes, others) == ({"F32"}, {"BF16"})


def test_tiny_holds_its_networks_and_nothing_else(tiny):
    """Each network takes all names under its prefixes; there are no others."""
    load_transformer(tiny.checkpoint, video=True, device=CPU, dtype=F32)
    load_audio_codec(tiny.checkpoint, device=CPU)
    load_video_encoder(tiny.checkpoint, device=CPU, dtype=F32)
    load_text_encoder(tiny.checkpoint, tiny.text_encoder, video=True, device=CPU, dtype=F32)
    prefixes = ("model.diffusion_model.", "text_embedding_projection.", "audio_vae.", "vocoder.", "vae.")
    assert all(name.startswith(prefixes) for name in tiny.checkpoint.tensors)


def test_tiny_text(tiny):
    encoder = load_text_encoder(tiny.checkpoint, tiny.text_encoder, video=True, device=CPU, dtype=F32)
    assert encoder.tokenizer.max_tokens == 128
    assert len(encoder.tokenizer.tokens("A dog barks softly.")) < 8
    assert len(encoder.tokenizer.tokens("日本語 ŋ 🎵")) > 5, "bytes stand in for what is not in the vocabulary"
    assert encoder.tokenizer.inner.unk_token_id not in encoder.tokenizer.tokens("日本語 ŋ 🎵")
    dog, rain = (context.audio for context in encoder.encode(["A dog barks softly.", "Rain falls on leaves."]))
    assert (dog - rain).std() > 0.1 * dog.std()


def test_tiny_transformer(tiny):
    """Velocities of order one, that depend on prompt, noise level and picture; a LoRA can learn."""
    transformer = load_transformer(tiny.checkpoint, video=True, device=CPU, dtype=F32)
    config = transformer.config
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 51, config.audio.channels, generator=random)
    context, other = torch.randn(2, 1, 128, config.audio.width, generator=random)
    middles = audio_token_midpoints(51)[None, None]

    def velocity(context, sigma, video=None):
        return transformer(Stream(latents, middles, torch.tensor([sigma]), context), video)[0]

    video = Stream(
        torch.randn(1, 12, config.video.channels, generator=random),
        video_token_midpoints(2, 2, 3, 24)[None],
        torch.zeros(1),
        torch.randn(1, 128, config.video.width, generator=random),
    )
    first = velocity(context, 0.5)
    assert 0.3 < first.std() < 3
    for changed in (velocity(other, 0.5), velocity(context, 0.9), velocity(context, 0.5, video)):
        assert (changed - first).std() > 0.02 * first.std()
    adapters = add_adapters(transformer, AUDIO_TARGETS, 4, seed=0)
    velocity(context, 0.5).square().mean().backward()
    for name, gradient in adapters.matrices(adapters.flat.grad).items():
        assert gradient.norm() > 0 or name.endswith("lora_A"), name


def test_tiny_codec(codec):
    """Made sounds have normalised latents; a noise comes back about as loud, at three times the rate."""
    random = torch.Generator().manual_seed(0)
    time = torch.arange(32_000) / 16_000
    noise = 0.1 * torch.randn(2, 32_000, generator=random)
    tone = 0.3 * torch.sin(2 * torch.pi * torch.tensor([330.0, 550.0])[:, None] * time)
    latents = codec.encode(torch.stack([noise, tone]))
    assert 0.3 < latents.std() < 3
    waveform = codec.decode(latents[:1, :26])
    assert waveform.shape == (1, 2, 101 * 480)
    assert 0.05 < waveform.std() < 0.2
    assert (waveform.abs() > 0.99).float().mean() < 0.01


def test_tiny_vocoder_has_computed_tensors(codec):
    """Its spectrogram is the one that torch and transformers compute, to the precision of bfloat16."""
    mel_stft = codec.vocoder.mel_stft
    expected = torch.from_numpy(mel_filter_bank(257, 64, 0, 8000, 16000, norm="slaney", mel_scale="slaney")).T
    torch.testing.assert_close(mel_stft.mel_basis, expected.float(), rtol=1e-2, atol=1e-6)
    waveform = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    magnitude = mel_stft(waveform)[1]
    padded = torch.nn.functional.pad(waveform, (512 - 80, 0))
    window = torch.hann_window(512)
    stft = torch.stft(padded, 512, 80, window=window, center=False, return_complex=True).abs()
    torch.testing.assert_close(magnitude, stft, rtol=0.05, atol=0.2)
    assert mel_stft.stft_fn.inverse_basis.any()


def test_tiny_video(tiny):
    encoder = load_video_encoder(tiny.checkpoint, device=CPU, dtype=F32)
    frames = torch.rand(1, 3, 9, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encoder.encode(frames)
    assert latents.shape == (1, tiny.checkpoint.section("transformer")["in_channels"], 2, 2, 3)
    assert 0.2 < latents.std() < 5


@pytest.fixture
def tool(monkeypatch):
    """The script that writes a base of random weights, as a module."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import make_random_base

    yield make_random_base
    for name in ("make_random_base", "captions", "header"):
        sys.modules.pop(name, None)


def test_script_writes_the_same_text_encoder_each_time(tool, tmp_path):
    for name in ("one", "two"):
        torch.manual_seed(0)
        tool.write_text_encoder(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_tokenizer_learns_from_many_different_captions(tool):
    assert len(set(tool.captions())) > 600
