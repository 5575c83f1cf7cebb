"""Renders a `PreviewItem` to audio, for the previews of a run and for the command `generate`.

In: a model with or without adapters, the codec, a `PreviewItem`, a seed. Out: a stereo waveform at the codec's output
rate, cut to the item's length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from sonolora.analysis.spectrogram import draw_waveform_and_mel
from sonolora.core.atomic_files import make_folder
from sonolora.core.randomness import normal
from sonolora.data.prepared import PreviewItem
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.ltx.model.transformer import Transformer
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.sampling.paste_kept import paste_kept
from sonolora.sampling.sampler import SamplingSettings, sample

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
    example = item.example.to(device)
    noise = normal(tuple(example.latents_BTC.shape), seed, "sampling").to(device)
    latents = sample(model, example, item.negative_context_BSD.to(device), noise, settings, on_step)
    sample_rate = codec.output_sample_rate
    samples = codec.decode(latents)[0, :, : round(item.seconds * sample_rate)].cpu().numpy()
    generated = Waveform(np.ascontiguousarray(samples / np.float32(item.gain)), sample_rate)
    if item.kept_CN is None:
        return generated
    return paste_kept(generated, Waveform(item.kept_CN.numpy(), sample_rate), item.regenerate)


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
