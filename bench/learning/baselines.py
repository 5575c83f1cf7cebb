"""Baselines without a model: silence, noise, and repetition of the kept part.

In: what a sample gives. Out: a waveform as long as the true one, with the same seams as a generated sound has.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from made_data import Made

from sonolora.core.frames import Span, complement
from sonolora.media.audio import Waveform
from sonolora.sampling.paste_kept import paste_kept

_NOISE = 0.1  # standard deviation


def silence(made: Made) -> Waveform:
    """Silence, with the kept part."""
    return _pasted(replace(made.true, samples=np.zeros_like(made.true.samples)), made)


def noise(made: Made, seed: int) -> Waveform:
    """White noise, with the kept part."""
    samples = np.random.default_rng(seed).normal(0, _NOISE, made.true.samples.shape)
    return _pasted(replace(made.true, samples=samples.astype(np.float32)), made)


def repetition(made: Made) -> Waveform:
    """Each regenerated span filled by a loop of the kept sound next to it, of the longer side."""
    assert made.regenerate is not None
    samples = made.true.samples.copy()
    kept = complement(made.regenerate, made.seconds)
    for start, end in made.regenerate:
        first, last = _samples((start, end), made.true)
        neighbour = max((span for span in kept if start in span or end in span), key=lambda span: span[1] - span[0])
        begin, stop = _samples(neighbour, made.true)
        part = made.true.samples[:, begin:stop]
        copies = np.tile(part, -(-(last - first) // part.shape[1]))
        # The loop continues the sound before the span, or leads into the sound after it.
        samples[:, first:last] = copies[:, : last - first] if stop <= first else copies[:, first - last :]
    return _pasted(replace(made.true, samples=samples), made)


def _pasted(sound: Waveform, made: Made) -> Waveform:
    return sound if made.regenerate is None else paste_kept(sound, made.true, made.regenerate)


def _samples(span: Span, sound: Waveform) -> tuple[int, int]:
    return round(span[0] * sound.sample_rate), round(span[1] * sound.sample_rate)
