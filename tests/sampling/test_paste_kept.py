"""Kept audio is pasted back unchanged, and the seams are smooth."""

from __future__ import annotations

import numpy as np
import pytest

from sonolora.media.audio import Waveform
from sonolora.sampling.paste_kept import FADE_SECONDS, paste_kept

RATE = 48000


def sine(pitch, seconds=2.0, phase=0.0):
    time = np.arange(round(seconds * RATE)) / RATE
    return Waveform(np.stack([0.5 * np.sin(2 * np.pi * pitch * time + phase)] * 2).astype(np.float32), RATE)


@pytest.mark.parametrize("spans", [[(0.5, 1.0)], [(0.0, 1.5)], [(0.5, 2.0)], [(0.2, 0.4), (1.0, 1.005)]])
def test_kept_samples_are_identical_outside_the_spans(spans):
    kept, generated = sine(440), sine(300, phase=1)
    result = paste_kept(generated, kept, spans)
    inside = np.zeros(result.samples.shape[1], bool)
    for start, end in spans:
        inside[round(start * RATE) : round(end * RATE)] = True
    assert np.array_equal(result.samples[:, ~inside], kept.samples[:, ~inside])
    fade = round(FADE_SECONDS * RATE)
    start, end = (round(at * RATE) for at in spans[0])
    middle = slice(start + fade, end - fade)
    assert np.array_equal(result.samples[:, middle], generated.samples[:, middle])


def test_seams_do_not_click():
    """No step between adjacent samples is larger than in the sounds themselves."""
    kept, generated = sine(440), sine(300, phase=2.5)
    result = paste_kept(generated, kept, [(0.5013, 1.0)])
    largest = max(np.abs(np.diff(one.samples)).max() for one in (kept, generated))
    assert np.abs(np.diff(result.samples)).max() < 1.5 * largest


def test_the_old_content_of_a_span_is_not_audible():
    kept = sine(440)
    kept.samples[:, RATE // 2 : RATE] = 100.0
    result = paste_kept(sine(300), kept, [(0.5, 1.0)])
    assert np.abs(result.samples).max() < 1.0


def test_there_is_no_step_at_the_end_of_the_given_part():
    """Extension: the kept audio ends in the middle of a wave, where the span begins."""
    kept = sine(440)
    cut = round(0.7502 * RATE)
    kept.samples[:, cut:] = 0
    silent = Waveform(np.zeros_like(kept.samples), RATE)
    result = paste_kept(silent, kept, [(0.7502, 2.0)])
    assert np.abs(np.diff(result.samples[0, cut - 10 : cut + 2000])).max() < 0.04
    assert not result.samples[:, cut + round(FADE_SECONDS * RATE) :].any()


@pytest.mark.parametrize(
    "spans", [[(0.5, 1.0), (1.0, 1.5)], [(0.8, 1.5), (0.5, 1.2)], [(0.5, 1.0), (1.003, 1.5)], [(0.5, 1.5), (0.6, 0.7)]]
)
def test_nor_where_spans_touch_overlap_or_nearly_touch(spans):
    kept = Waveform(np.zeros((2, 2 * RATE), np.float32), RATE)
    for start, end in spans:
        kept.samples[:, round(start * RATE) : round(end * RATE)] = 100.0
    assert np.abs(paste_kept(sine(300), kept, spans).samples).max() < 1.0
