"""The reference of a2a on the time axis: where it is in both conventions, and that the network sees it there."""

from __future__ import annotations

import pytest
import torch

from sonolora.conditioning import Example, collate, velocity, with_reference_positions
from sonolora.core.errors import InputError
from sonolora.core.frames import NEGATIVE, OVERLAP
from sonolora.core.randomness import normal
from sonolora.ltx.model.transformer import Stream, audio_token_midpoints
from sonolora.modes.a2a import A2A
from sonolora.modes.t2a import T2A
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.generation.generate import _reference_positions

FRAMES, REFERENCE = 6, 5


@pytest.fixture
def example(transformer):
    config = transformer.config.audio
    return Example(
        normal((1, FRAMES, config.channels), "target"),
        normal((1, 7, config.context_dim), "context"),
        reference_BRC=normal((1, REFERENCE, config.channels), "reference"),
    )


def test_negative_times_end_one_frame_before_zero(example):
    """As documented: the positions less the end of the last frame and 0.04 s."""
    placed = with_reference_positions(example, NEGATIVE).reference_middles_BR
    # Five frames: [0, 0.01], [0.01, 0.05], ..., [0.13, 0.17]; less 0.21 s.
    expected = [-0.205, -0.18, -0.14, -0.10, -0.06]
    torch.testing.assert_close(placed, torch.tensor([expected]), atol=1e-7, rtol=0)
    assert with_reference_positions(example, OVERLAP) is example
    alone = Example(example.latents_BTC, example.context_BSD)
    assert with_reference_positions(alone, NEGATIVE) is alone


def test_the_network_sees_the_reference_there(example, transformer):
    sigma, noisy = torch.tensor([0.6]), normal((1, FRAMES, example.latents_BTC.shape[2]), "noisy")
    outputs = {}
    with torch.no_grad():
        for positions in (OVERLAP, NEGATIVE):
            outputs[positions] = velocity(transformer, with_reference_positions(example, positions), noisy, sigma)
        # The same by hand, the target first: attention does not depend on the order of tokens.
        middles = torch.cat([audio_token_midpoints(FRAMES), torch.tensor([-0.205, -0.18, -0.14, -0.10, -0.06])])
        clean = torch.tensor([[False] * FRAMES + [True] * REFERENCE])
        tokens = torch.cat([noisy, example.reference_BRC], dim=1)
        stream = Stream(tokens, middles[None, None], sigma, example.context_BSD, clean)
        by_hand = transformer(stream)[0][:, :FRAMES]
    torch.testing.assert_close(outputs[NEGATIVE], by_hand, rtol=1e-3, atol=1e-3)
    assert (outputs[NEGATIVE] - outputs[OVERLAP]).norm() > 0.01 * outputs[OVERLAP].norm()
    placed = with_reference_positions(example, NEGATIVE)
    both = velocity(transformer, collate([placed, placed]), noisy.expand(2, -1, -1), sigma.expand(2))
    torch.testing.assert_close(both[1:], outputs[NEGATIVE], rtol=1e-4, atol=1e-5)


def test_generate_obeys_the_lora():
    assert _reference_positions(A2A, None, {}) == OVERLAP
    assert _reference_positions(A2A, None, {"reference_positions": NEGATIVE}) == NEGATIVE
    assert _reference_positions(A2A, NEGATIVE, {}) == NEGATIVE
    assert _reference_positions(T2A, None, {"reference_positions": OVERLAP}) == OVERLAP
    with pytest.raises(InputError, match="trained with negative and needs it; found overlap"):
        _reference_positions(A2A, OVERLAP, {"reference_positions": NEGATIVE})
    with pytest.raises(InputError, match="negative is for a2a only; t2a has no reference"):
        _reference_positions(T2A, NEGATIVE, {})


def test_settings_are_of_a2a_alone():
    RunSettings(reference_positions=NEGATIVE).check_mode(A2A)
    with pytest.raises(InputError, match="for a2a only"):
        RunSettings(reference_positions=NEGATIVE).check_mode(T2A)
    with pytest.raises(InputError, match="not one of overlap, negative"):
        RunSettings(reference_positions="before")
