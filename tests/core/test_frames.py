"""Seconds and latent frames, at every border."""

from __future__ import annotations

import pytest

from sonolora.core.frames import complement, encoded_seconds, frame_bounds, frame_count, kept_frames


@pytest.mark.parametrize(
    ("seconds", "frames"), [(5.0, 126), (0.5, 14), (5.01, 126), (5.02, 127), (0.0, 1), (0.57, 15), (20, 501)]
)
def test_count(seconds, frames):
    assert frame_count(seconds) == frames


def test_frames_cover_exactly():
    """Decoded sound is as long as asked for, and would not be with one frame less."""
    for hundredths in range(1, 3000):
        frames = frame_count(hundredths / 100)
        assert 4 * frames - 3 >= hundredths > 4 * (frames - 1) - 3


def test_encoded_length_is_at_most_30_ms_more():
    for hundredths in range(1, 3000):
        extra = encoded_seconds(frame_count(hundredths / 100)) - hundredths / 100
        assert -0.0101 <= extra < 0.0301


def test_bounds_are_the_published_positions(cases):
    found = frame_bounds(26)
    for (start, end), expected in zip(found, cases["audio_positions_seconds"][0, 0].tolist(), strict=True):
        assert (start, end) == pytest.approx(expected, abs=1e-6)


def indices(keep):
    return [index for index, kept in enumerate(keep) if kept]


@pytest.mark.parametrize(
    ("span", "regenerated"),
    [
        ((0.0, 0.01), [0]),  # frame 0 is [0, 0.01]
        ((0.01, 0.05), [1]),
        ((0.02, 0.03), [1]),  # inside frame 1
        ((0.0, 0.02), [0, 1]),
        ((0.04, 0.06), [1, 2]),
        ((0.05, 0.09), [2]),  # borders alone do not touch
        ((0.35, 9.0), [9]),
    ],
)
def test_a_frame_is_regenerated_when_it_touches_a_span(span, regenerated):
    keep = kept_frames([span], 10)
    assert [index for index in range(10) if not keep[index]] == regenerated


def test_several_spans_and_none():
    assert indices(kept_frames([(0.05, 0.09), (0.25, 0.29)], 9)) == [0, 1, 3, 4, 5, 6, 8]
    assert indices(kept_frames([], 5)) == [0, 1, 2, 3, 4]


def test_one_second_of_five_kept_at_either_end():
    assert indices(kept_frames([(1.0, 5.0)], 126)) == list(range(25))
    assert indices(kept_frames([(0.0, 4.0)], 126)) == list(range(101, 126))


def test_complement():
    assert complement([(1, 2), (3, 4)], 5) == [(0, 1), (2, 3), (4, 5)]
    assert complement([(0, 2), (1, 3)], 3) == []
    assert complement([], 2) == [(0, 2)]
    assert complement([(1, 9)], 4) == [(0, 1)]
