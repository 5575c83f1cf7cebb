"""The mel front end, the audio VAE and the vocoder."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError
from sonolora.core.frames import encoded_seconds, frame_count
from sonolora.ltx.codec.audio_codec import (
    AudioCodec,
    build_vae,
    build_vocoder,
    load_audio_codec,
    vae_checkpoint_name,
    vocoder_checkpoint_name,
)
from sonolora.ltx.weights.checkpoint import Checkpoint

CPU = torch.device("cpu")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def codec(checkpoint: Checkpoint) -> AudioCodec:
    return load_audio_codec(checkpoint, device=CPU)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest expected value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_golden_mel(codec, cases):
    assert difference(codec.log_mel(cases["codec.waveform_16k"]), cases["codec.log_mel"]) < TOLERANCE


def test_golden_encode(codec, cases):
    latents = codec.encode(cases["codec.waveform_16k"])
    assert difference(latents, cases["codec.latents_btc"]) < TOLERANCE
    assert not latents.requires_grad


def test_golden_decode(codec, cases):
    assert difference(codec.decode_mel(cases["codec.latents_btc"]), cases["codec.decoded_log_mel"]) < TOLERANCE


def test_golden_vocode(codec, cases):
    waveform = codec.vocode(cases["codec.vocoder_input"])
    assert difference(waveform, cases["codec.vocoder_output_48k"]) < TOLERANCE


def test_decode_is_mel_then_waveform(codec, cases):
    latents = cases["codec.latents_btc"][:, :5]
    assert torch.equal(codec.decode(latents), codec.vocode(codec.decode_mel(latents)))


def test_what_the_header_says(codec):
    assert (codec.sample_rate, codec.output_sample_rate) == (16_000, 48_000)
    assert codec.channels == 32


def test_samples_are_the_fewest(codec):
    """Against the encoder itself, just below and at the length."""
    for frames in (3, 4, 14, 26):
        samples = round(encoded_seconds(frames) * 16_000)
        for length, expected in ((samples, frames), (samples - 1, frames - 1)):
            assert codec.vae.encoder(codec.log_mel(torch.zeros(1, 2, length))).shape[2] == expected


@pytest.mark.parametrize(
    "samples", [513, 640, 1279, 1280, 1281, 1440, 1441, 1919, 7999, 8000, 8001, 8159, 8160, 8161, 16000, 80160 // 4]
)
def test_every_length_has_its_frames(samples, codec):
    waveform = 0.1 * torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(samples))
    assert codec.encode(waveform).shape == (1, frame_count(samples / 16_000), 32)


def test_padding_is_silence_at_the_end(codec):
    waveform = 0.1 * torch.randn(1, 2, 8161, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(waveform, (0, round(encoded_seconds(frame_count(8161 / 16_000)) * 16_000) - 8161))
    assert 0 < padded.shape[-1] - 8161 <= 480
    assert torch.equal(codec.encode(waveform), codec.encode(padded))


def test_statistics_normalise(codec, checkpoint, cases, rewrite):
    """Other statistics in the file, other latents, same mel."""
    tensors = load_file(checkpoint.path)
    prefix = "audio_vae.per_channel_statistics."
    changes = {f"{prefix}mean-of-means": tensors[f"{prefix}mean-of-means"] + 1}
    changes[f"{prefix}std-of-means"] = tensors[f"{prefix}std-of-means"] * 2
    other = load_audio_codec(rewrite(changes), device=CPU)
    latents = other.encode(cases["codec.waveform_16k"])
    vae = other.vae
    expected = (
        cases["codec.latents_btc"] * codec.vae.latents_std + codec.vae.latents_mean - vae.latents_mean
    ) / vae.latents_std
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.decode_mel(latents), cases["codec.decoded_log_mel"], rtol=1e-4, atol=1e-4)


def test_missing_tensor_is_named(rewrite):
    with pytest.raises(CheckpointError, match=r"missing: vocoder\.mel_stft\.mel_basis"):
        load_audio_codec(rewrite({"vocoder.mel_stft.mel_basis": None}), device=CPU)


def edited(section, **changes):
    """A deep copy of a config section with changes at paths, written with `__` between keys."""
    section = copy.deepcopy(dict(section))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = section
        for parent in parents:
            place = place[parent]
        place[last] = value
    return section


def test_vae_that_does_not_fit_the_statistics_is_refused(checkpoint):
    section = edited(checkpoint.section("audio_vae"), model__params__ddconfig__z_channels=8)
    with pytest.raises(CheckpointError, match="base width 32 but 128 channels"):
        build_vae(section)


def test_vae_of_other_stride_is_refused(checkpoint):
    section = edited(checkpoint.section("audio_vae"), model__params__ddconfig__ch_mult=[1, 2])
    with pytest.raises(CheckpointError, match="of 2 mel frames"):
        build_vae(section)


def test_final_activations_follow_the_header(checkpoint):
    vae, section = build_vae(checkpoint.section("audio_vae")), checkpoint.section("vocoder")

    def finals(**changes):
        vocoder = build_vocoder(edited(section, **changes), vae)
        return vocoder.vocoder.final_act_fn, vocoder.bwe_generator.final_act_fn

    assert finals() == ("clamp", None)
    assert finals(vocoder__use_tanh_at_final=True) == ("tanh", None)
    assert finals(bwe__apply_final_activation=True) == ("clamp", "clamp")


def test_other_vocoders_are_refused(checkpoint):
    vae, section = build_vae(checkpoint.section("audio_vae")), checkpoint.section("vocoder")
    with pytest.raises(CheckpointError, match="AMP1"):
        build_vocoder(edited(section, bwe__resblock="1"), vae)


def test_missing_setting_is_named(checkpoint, rewrite):
    config = edited(checkpoint.config)
    del config["audio_vae"]["preprocessing"]["mel"]["mel_fmax"]
    with pytest.raises(CheckpointError, match="mel_fmax"):
        load_audio_codec(rewrite({}, config), device=CPU)


def test_published_structure(checkpoint):
    """Tensor and parameter counts of the published file, from the published header's sizes."""
    vae_section = edited(
        checkpoint.section("audio_vae"), model__params__ddconfig__ch=128, model__params__ddconfig__z_channels=8
    )
    vocoder_section = edited(
        checkpoint.section("vocoder"), vocoder__upsample_initial_channel=1536, bwe__upsample_initial_channel=512
    )
    with torch.device("meta"):
        vae = build_vae(vae_section)
        vocoder = build_vocoder(vocoder_section, vae)
    assert len({vae_checkpoint_name(name) for name in vae.state_dict()}) == 44 + 56 + 2
    assert parameters(vae.encoder) == 21_333_008
    assert parameters(vae.decoder) == 31_915_138
    names = {vocoder_checkpoint_name(name) for name in vocoder.state_dict()}
    assert len(names) == 1227
    assert "vocoder.vocoder.resblocks.17.acts2.2.downsample.lowpass.filter" in names
    assert parameters(vocoder) == 128_537_448


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
