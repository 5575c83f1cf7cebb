"""Training the codec of `tiny`: it learns, it goes on where it stopped, and its judge can tell good from bad."""

from __future__ import annotations

import json
import math

import pytest
import torch
import train_vae
import train_vocoder
from assemble import trained_tensors
from batches import LOW, Clips
from distances import clicks, level_error, log_spectral_distance, mel_distance
from fit import Plan, fit, newest
from griffin_lim import griffin_lim
from header import CONFIG
from real_sounds import midi
from steady_tones import distance, nearest_periodic

from sonolora.ltx.codec.audio_codec import build_log_mel

pytestmark = pytest.mark.slow  # guards the making of `tiny`, which is in the package as a file
CPU = torch.device("cpu")
PARTS = {"vae": CONFIG["audio_vae"], "vocoder": CONFIG["vocoder"]["vocoder"], "bwe": CONFIG["vocoder"]["bwe"]}
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    """The header's networks, yet narrower, and short crops."""
    with pytest.MonkeyPatch.context() as patch:
        shape = CONFIG["audio_vae"]["model"]["params"]["ddconfig"]
        patch.setitem(shape, "ch", 16)
        patch.setitem(shape, "z_channels", 1)
        patch.setitem(CONFIG["vocoder"]["vocoder"], "upsample_initial_channel", 64)
        patch.setitem(CONFIG["vocoder"]["bwe"], "upsample_initial_channel", 16)
        for module in (train_vae, train_vocoder):
            patch.setattr(module, "CROP_SECONDS", 0.16)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    clips = Clips(tmp_path_factory.mktemp("clips"), seconds=0.3, blocks=1)
    clips.make(0)
    return clips


@pytest.fixture(scope="module")
def work(tmp_path_factory, clips):
    """All parts trained for a few steps, one upon the other."""
    work = tmp_path_factory.mktemp("work")
    for name in PARTS:
        train(name, work, clips, STEPS, inputs=work)
    return work


def train(name, work, clips, steps, inputs):
    """Train a part up to `steps` steps, upon the parts in `inputs`."""
    torch.manual_seed(0)
    if name == "vae":
        network, losses_of = train_vae.training(clips, 2, CPU)
    else:
        network, losses_of = train_vocoder.training(name, inputs, clips, 2, CPU)
    first_crop = lambda step: losses_of(0)  # noqa: E731, ARG005 - the same sounds and noise at every step
    plan = Plan(work, name, PARTS[name], batch=2, steps=steps, learning_rate=5e-3, report=1, save=3)
    return fit(plan, network, first_crop)


@pytest.mark.parametrize("name", PARTS)
def test_a_few_steps_lower_the_loss(work, name):
    losses = [json.loads(line)["loss"] for line in (work / f"{name}.jsonl").read_text().splitlines()]
    assert len(losses) == STEPS
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("name", PARTS)
def test_resuming_is_exact(work, tmp_path, clips, name):
    train(name, tmp_path, clips, STEPS // 2, inputs=work)
    assert newest(tmp_path, name, PARTS[name])["step"] == STEPS // 2
    train(name, tmp_path, clips, STEPS, inputs=work)
    whole, resumed = newest(work, name, PARTS[name]), newest(tmp_path, name, PARTS[name])
    for kind in ("network", "average"):
        assert all(torch.equal(whole[kind][key], resumed[kind][key]) for key in whole[kind])


def test_a_state_of_another_header_is_refused(work):
    with pytest.raises(ValueError, match=r"vae\.pt belongs to a network of other sizes"):
        newest(work, "vae", PARTS["bwe"])


def test_crops_follow_from_the_step_alone(clips):
    low, high = clips.crops(3, 2, 0.2)
    assert low.shape == (2, 2, 3200) and high.shape == (2, 2, 9600)
    assert torch.equal(low, Clips(clips.folder, seconds=0.3, blocks=1).crops(3, 2, 0.2)[0])
    assert not torch.equal(low, clips.crops(4, 2, 0.2)[0])


def test_both_rates_hold_the_same_sound(clips):
    low, high = clips.crops(0, 8, 0.3)
    size = 512
    spectra = [
        torch.stft(sound.flatten(0, 1), size * factor, window=torch.hann_window(size * factor), return_complex=True)
        for sound, factor in ((low, 1), (high, 3))
    ]
    # Below 5 kHz, where the filter between the rates does nothing.
    ours, theirs = (spectrum[:, : size * 5 // 16].abs().mean((0, 2)) for spectrum in spectra)
    assert (theirs / ours / 3 - 1).abs().max() < 0.04


def test_trained_parts_get_published_names_and_true_statistics(work, clips):
    tensors, parts = trained_tensors(work)
    assert parts == [f"{name} {STEPS}" for name in PARTS]
    assert "vocoder.bwe_generator.conv_post.weight" in tensors
    vae = train_vae.new_vae()
    vae.load_state_dict(newest(work, "vae", PARTS["vae"])["average"])
    mel = build_log_mel(CONFIG["audio_vae"], CPU)(clips.block(0))
    with torch.no_grad():
        means = vae.encoder(mel)[:, : vae.config.latent_channels]
    tokens = means.transpose(1, 2).flatten(2).flatten(0, 1)
    mean, std = (tensors[f"audio_vae.per_channel_statistics.{name}-of-means"] for name in ("mean", "std"))
    # The statistics are stored in bfloat16.
    torch.testing.assert_close(((tokens - mean) / std).std(0), torch.ones(len(std)), atol=0.01, rtol=0)


@pytest.fixture
def chord():
    """Two seconds of a chord that decays, 48 kHz, (2, N)."""
    time = torch.arange(96_000) / 48_000
    tones = sum((2 * math.pi * hertz * time).sin() for hertz in (220, 277, 330, 1000))
    return (0.1 * tones * (-time).exp()).repeat(2, 1)


@pytest.mark.parametrize("distance", [log_spectral_distance, mel_distance])
def test_distances_are_zero_for_equal_sounds_and_grow_with_noise(chord, distance):
    noise = torch.randn(chord.shape, generator=torch.Generator().manual_seed(0))
    none, little, more, much = (distance(chord + amount * noise, chord, 48_000) for amount in (0, 1e-3, 1e-2, 1e-1))
    assert none == 0
    assert little > 1
    assert more > little + 1
    assert much > more + 1


def test_distances_are_levels_in_decibels(chord):
    assert mel_distance(chord, 10 * chord, 48_000) <= 20
    noise = 0.1 * torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0))
    assert log_spectral_distance(2 * noise, noise, 48_000) == pytest.approx(6.02, abs=0.05)
    assert mel_distance(2 * noise, noise, 48_000) == pytest.approx(6.02, abs=0.05)


def test_level_and_drift(chord):
    assert level_error(chord, chord, 48_000) == (0, 0)
    assert level_error(chord / 2, chord, 48_000) == pytest.approx((-6.02, 0), abs=0.01)
    swelling = chord * torch.linspace(0.5, 2, chord.shape[1])
    assert 5 < level_error(swelling, chord, 48_000)[1] < 12
    assert level_error(chord, torch.zeros_like(chord), 48_000) == (0, 0)


def test_clicks_are_counted_unless_the_truth_has_them(chord):
    clicking = chord.clone()
    for at in (20_000, 50_000, 80_000):
        clicking[:, at] += 0.2
    assert clicks(chord, chord, 48_000) == 0
    assert clicks(clicking, chord, 48_000) == 3
    assert clicks(clicking, clicking, 48_000) == 0


def test_griffin_lim_gives_the_mel_back(chord):
    log_mel = build_log_mel(CONFIG["audio_vae"], CPU)
    mel = log_mel(chord[None, :, :: 48_000 // LOW])
    again = log_mel(griffin_lim(log_mel, mel))
    loud = mel > math.log(1e-3)
    assert (again - mel)[loud].abs().mean() < 0.35


def test_the_tune_is_a_midi_file():
    tune = midi(40, (60, 62))
    assert tune[:4] == b"MThd" and tune[14:18] == b"MTrk"
    assert len(tune) == 22 + int.from_bytes(tune[18:22], "big")


def test_a_tone_between_the_lines_of_a_mel_frame_is_out_of_reach():
    times = torch.arange(LOW // 4) / LOW
    on_a_line, between = (0.3 * torch.sin(2 * math.pi * pitch * times)[None] for pitch in (300, 350))
    assert distance(nearest_periodic(on_a_line, 0.01), on_a_line) < 2
    assert distance(nearest_periodic(between, 0.01), between) > 4
    assert distance(nearest_periodic(between, 0.02), between) < 2
