"""Renders a `PreviewItem` to audio, for the previews of a run and for the command `generate`.

In: a model with or without adapters, the codec, a `PreviewItem`, a seed. Out: a stereo waveform at the codec's output
rate, cut to the item's length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sonolora.analysis.spectrogram import draw_waveform_and_mel
from sonolora.core.atomic_files import make_folder
from sonolora.core.randomness import normal
from sonolora.data.prepared import PreviewItem
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.ltx.model.transformer import Transformer
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.sampling.paste_kept import paste_kept
from sonolora.sampling.sampler import SamplingSettings, sample_continued, sample_windows

PAUSE_SECONDS = 0.5


def render(
    model: Transformer,
    codec: AudioCodec,
    item: PreviewItem,
    settings: SamplingSettings,
    seed: int,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> Waveform:
    """Generate one sound, with kept audio pasted back sample-exact. `on_step` is called after each sampling step.

    The noise depends on the seed and the length alone, so that previews of different steps are comparable.
    """
    generated = render_windows(model, codec, [(0, item)], item.seconds, settings, (seed,), device, on_step)
    if item.kept_CN is None:
        return generated
    return paste_kept(generated, Waveform(item.kept_CN.numpy(), codec.output_sample_rate), item.regenerate)


def render_windows(
    model: Transformer,
    codec: AudioCodec,
    windows: Sequence[tuple[int, PreviewItem]],
    seconds: float,
    settings: SamplingSettings,
    seed: tuple[int, ...],
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> Waveform:
    """Generate one sound of `seconds` from windows, (first latent frame, item) each, that are denoised together.

    The windows have equal gains, prompts and numbers of frames. Nothing is pasted.
    """
    first = windows[0][1]
    examples = [(start, item.example.to(device)) for start, item in windows]
    noise = _noise(codec, examples[-1][0] + first.example.latents_BTC.shape[1], seed, device)
    latents = sample_windows(model, examples, first.negative_context_BSD.to(device), noise, settings, on_step)
    return _decode(codec, latents, seconds, first.gain)


def render_continued(
    model: Transformer,
    codec: AudioCodec,
    item: PreviewItem,
    starts: Sequence[int],
    window: int,
    settings: SamplingSettings,
    seed: tuple[int, ...],
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> Waveform:
    """Generate what is not kept of a sound, one window of `window` latent frames after another; nothing is pasted."""
    example = item.example.to(device)
    noise = _noise(codec, example.latents_BTC.shape[1], seed, device)
    negative = item.negative_context_BSD.to(device)
    latents = sample_continued(model, example, starts, window, negative, noise, settings, on_step)
    return _decode(codec, latents, item.seconds, item.gain)


def _noise(codec: AudioCodec, frames: int, seed: tuple[int, ...], device: torch.device) -> Tensor:
    return normal((1, frames, codec.channels), seed[0], "sampling", *seed[1:]).to(device)


def _decode(codec: AudioCodec, latents_BTC: Tensor, seconds: float, gain: float) -> Waveform:
    samples = codec.decode(latents_BTC)[0, :, : round(seconds * codec.output_sample_rate)].cpu().numpy()
    return Waveform(np.ascontiguousarray(samples / np.float32(gain)), codec.output_sample_rate)


def write_preview(path: Path, waveform: Waveform, title: str) -> None:
    """Write `path` (.wav) and beside it a picture (.png) of the waveform and its mel spectrogram."""
    make_folder(path.parent)
    write_wav(path, waveform)
    draw_waveform_and_mel(path.with_suffix(".png"), waveform, title)


def joined(waveforms: Sequence[Waveform]) -> Waveform:
    """The waveforms one after another, with `PAUSE_SECONDS` of silence between them."""
    sample_rate = waveforms[0].sample_rate
    pause = np.zeros((waveforms[0].channels, round(PAUSE_SECONDS * sample_rate)), np.float32)
    parts = [part for waveform in waveforms for part in (waveform.samples, pause)][:-1]
    return Waveform(np.concatenate(parts, axis=1), sample_rate)


def joints(waveforms: Sequence[Waveform]) -> list[float]:
    """Seconds of `joined` at which, in the middle of a pause, one waveform is over and the next begins."""
    places, seconds = [], 0.0
    for waveform in waveforms[:-1]:
        seconds += waveform.seconds + PAUSE_SECONDS
        places.append(seconds - PAUSE_SECONDS / 2)
    return places
