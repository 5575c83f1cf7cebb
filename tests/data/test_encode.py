"""Training clips and what is given at inference become examples by the same function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sonolora.core.frames import frame_count
from sonolora.data.clips import Clip
from sonolora.data.conditioning_inputs import load_conditioning_input
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.modes.preview_spec import PreviewSpec

CPU = torch.device("cpu")
RATE = 16000


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    base = find_base("tiny")
    codec = load_audio_codec(base.checkpoint, device=CPU)
    return Encoder(base, codec, Cache(tmp_path_factory.mktemp("cache")), CPU, torch.float32, video=False)


def noise(seconds, seed=0):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, round(seconds * RATE)))
    return Waveform(samples.astype(np.float32), RATE)


def test_target_frames_are_those_of_the_whole_clip_and_kept_frames_of_the_muted_one(encoder):
    sound, spans = noise(1.0), ((0.4, 0.6),)
    example = encoder._encode(Clip("a", "", sound, regenerate=spans), learn=True)
    whole = encoder.codec.encode(torch.from_numpy(sound.samples)[None])
    silenced = sound.samples.copy()
    silenced[:, 6400:9600] = 0
    muted = encoder.codec.encode(torch.from_numpy(silenced)[None])
    keep = example.keep_BT[0]
    assert keep.tolist() == [not (0.04 * i + 0.01 > 0.4 and 0.04 * i - 0.03 < 0.6) for i in range(frame_count(1.0))]
    torch.testing.assert_close(example.latents_BTC[0][keep], muted[0][keep])
    torch.testing.assert_close(example.latents_BTC[0][~keep], whole[0][~keep])
    behind = int((~keep).nonzero().max()) + 1
    assert (whole - muted)[0, behind].abs().max() > 1e-3, "the codec looks back: this is why it matters"


@pytest.mark.parametrize("at_end", [False, True])
def test_what_is_kept_is_encoded_alike_in_training_and_at_inference(encoder, tmp_path, at_end):
    sound, given = noise(1.0), 0.4
    spans = ((0.0, 0.6),) if at_end else ((0.4, 1.0),)
    trained = encoder._encode(Clip("a", "", sound, regenerate=spans), learn=True)
    part = sound.samples[:, -6400:] if at_end else sound.samples[:, :6400]
    write_wav(tmp_path / "part.wav", Waveform(np.round(part * 32767) / np.float32(32768), RATE))
    spec = PreviewSpec(
        "", "", 1.0, source=str(tmp_path / "part.wav"), regenerate=spans, given_seconds=given, source_at_end=at_end,
        normalize=False,
    )  # fmt: skip
    found = encoder._encode(load_conditioning_input(spec, RATE, 48000, tmp_path).clip, learn=False)
    keep = trained.keep_BT
    assert torch.equal(keep, found.keep_BT)
    # 16 bits in the file: equal but for the rounding.
    torch.testing.assert_close(found.latents_BTC[keep], trained.latents_BTC[keep], atol=2e-3, rtol=2e-3)
    assert not found.latents_BTC[~keep].any(), "nothing of the target is known"


def test_old_content_of_a_span_cannot_leak_into_what_is_given(encoder):
    spans = ((0.4, 0.6),)
    examples = []
    for seed in (1, 2):
        sound = noise(1.0)
        sound.samples[:, 6400:9600] = noise(0.2, seed).samples
        examples.append(encoder._encode(Clip("a", "", sound, regenerate=spans), learn=True))
    keep = examples[0].keep_BT
    assert torch.equal(examples[0].latents_BTC[keep], examples[1].latents_BTC[keep])
    assert not torch.equal(examples[0].latents_BTC[~keep], examples[1].latents_BTC[~keep])


def test_results_are_kept_by_content(encoder):
    calls = []
    real = encoder.codec.vae.encoder.forward
    encoder.codec.vae.encoder.forward = lambda mel: (calls.append(1), real(mel))[1]
    try:
        sound = noise(0.5, seed=9)
        first = encoder._encode(Clip("a", "x", sound), learn=True)
        again = encoder._encode(Clip("b", "y", sound), learn=True)
        other = encoder._encode(Clip("a", "x", noise(0.5, seed=10)), learn=True)
    finally:
        encoder.codec.vae.encoder.forward = real
    assert len(calls) == 2
    assert torch.equal(first.latents_BTC, again.latents_BTC)
    assert not torch.equal(first.latents_BTC, other.latents_BTC)


def test_texts_that_the_cache_lacks_are_encoded_in_one_call(encoder, tmp_path):
    calls = []

    class Counted:
        def encode(self, texts, advance):
            calls.append(list(texts))
            return real.encode(texts, advance)

    real = encoder._load_text_encoder()
    mine = replace(encoder, cache=Cache(tmp_path), text_encoder=Counted)
    notes = []
    first = mine.encode_texts(["a bell", "rain", "a bell", ""], notes.append)
    assert calls == [["a bell", "rain", ""]]
    assert len(notes) == real.language_model.state_count
    again = mine.encode_texts(["rain", "a dog"], notes.append)
    assert calls[1:] == [["a dog"]]
    assert torch.equal(again["rain"].audio, first["rain"].audio)
    assert torch.equal(first[""].audio[0], real.encode([""])[0].audio)
    mine.encode_texts(["", "a dog"], notes.append)
    assert len(calls) == 2, "nothing is opened for what is there"
