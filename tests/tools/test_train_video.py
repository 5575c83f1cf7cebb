"""Training what sees in `tiny`: what the encoder is told of a film, and what pictures are kept from changing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import train_pictures
import train_transformer
import train_video_encoder
from films import FRAME_RATE, Film
from fit import Plan
from header import CONFIG
from sounds.kind import RATE

from sonolora.media.audio import Waveform

pytestmark = pytest.mark.slow  # guards the making of `tiny`, which is in the package as a file
CPU = torch.device("cpu")
SILENCE = Waveform(np.zeros((2, RATE), np.float32), RATE)


def flashes(impacts, width=96):
    """A black film in which a stroke of two pixels is white for a frame where and when something sounds."""
    frames = np.zeros((49, 64, width, 3), np.uint8)
    for seconds, place in impacts:
        frames[round(seconds * FRAME_RATE), :, round(place * width) : round(place * width) + 2] = 255
    return Film(frames, SILENCE, "flashes", "flashes", impacts)


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(0)
    times = [np.arange(1, 48, 4) / FRAME_RATE for _ in range(3)]
    return [flashes(tuple((float(at), float(rng.uniform(0.05, 0.95))) for at in each)) for each in times]


def test_a_crop_is_told_the_onsets_that_it_shows(films):
    pixels, onsets = train_video_encoder.crops(films, 0, 60)
    assert pixels.shape == (60, 3, 25, 64, 32) and onsets.shape == (60, 24)
    # A frame that is not like most, whatever was done to colours and contrast.
    stands_out = (pixels - pixels.median(dim=2, keepdim=True).values).abs().amax(dim=(1, 3, 4)) > 0.5
    shown = stands_out[:, 1:].float()
    assert shown.sum() > 60
    assert (shown - onsets).clamp(min=0).sum() == 0, "an onset that is seen is told"
    assert (onsets - shown).clamp(min=0).sum() < 0.2 * onsets.sum(), "what is told lies in the crop or beside its edge"


def test_crops_follow_from_the_step_alone(films):
    first, again, other = (train_video_encoder.crops(films, step, 4) for step in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_latents_of_the_trained_encoder_are_normalised(tmp_path, monkeypatch):
    monkeypatch.setattr(train_video_encoder, "_MEASURED", 3)
    torch.manual_seed(0)
    plan = Plan(tmp_path, "video_training", CONFIG["vae"], batch=2, steps=2, learning_rate=1e-3, report=1, save=2)
    train_video_encoder.train(plan, 5, CPU)
    encoder = train_video_encoder.from_state(torch.load(tmp_path / "video.pt"))
    measured = [train_video_encoder.film(0, 5 + index, 49, (64, 96)) for index in range(3)]
    latents = encoder.encode(train_video_encoder.pixels_of(measured)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(32), atol=0.05, rtol=0)
    torch.testing.assert_close(latents.std(1), torch.ones(32), atol=0.05, rtol=0)
    for parameter in encoder.parameters():
        assert torch.equal(parameter, parameter.bfloat16().float()), "as the base's file has it"


def test_pictures_teach_nothing_of_what_sound_alone_passes_through():
    torch.manual_seed(0)
    taught, network = train_transformer.Network(), train_transformer.Network()
    average = {name: value + 0.01 for name, value in taught.state_dict().items()}
    train_pictures.keep_what_sounds(network, average)
    alone = train_transformer.Transformer(network.transformer.config, video=False)
    sounds = {f"transformer.{name}" for name in alone.state_dict()}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert sounds and not sounds & trained
    assert {name.partition(".")[0] for name in trained} == {"transformer", "video", "seen"}
    for name, value in network.state_dict().items():
        kept = name in sounds or name.startswith(("audio.", "heard."))
        assert torch.equal(value, average[name]) == kept, name
