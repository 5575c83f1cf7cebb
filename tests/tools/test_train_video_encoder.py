"""The video encoder of `tiny`: what it leaves in the work folder, and that its latents tell what moves."""

from __future__ import annotations

import json

import pytest
import torch
import train_video_encoder
from films import film
from fit import newest
from header import CONFIG
from make_random_base import make_video_encoder
from probe_motion import chance, low_resolution, matches, peaks, score

FILMS = 10


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    train_video_encoder.train(work, FILMS)
    return work


@pytest.fixture(scope="module")
def encoder(work):
    return train_video_encoder.from_state(newest(work, "video", CONFIG["vae"]))


def test_weights_are_those_that_the_file_stores(encoder):
    tensors = encoder.state_dict()
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in tensors.values())
    assert 2 * sum(tensor.numel() for tensor in tensors.values()) < 2e6
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())


def test_latents_have_mean_zero_and_unit_spread(encoder):
    films = train_video_encoder.training_films(FILMS)
    latents = torch.cat([encoder.encode(one)[0].flatten(1) for one in films], dim=1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(len(latents)), atol=0.01, rtol=0)
    torch.testing.assert_close(latents.std(1), torch.ones(len(latents)), atol=0.01, rtol=0)


def test_fitting_again_gives_the_same_weights(work, encoder, tmp_path):
    train_video_encoder.train(tmp_path, FILMS)
    again = newest(tmp_path, "video", CONFIG["vae"])["average"]
    assert all(torch.equal(tensor, again[name]) for name, tensor in encoder.state_dict().items())
    assert (tmp_path / "video.jsonl").read_bytes() == (work / "video.jsonl").read_bytes()


def test_the_log_tells_what_the_latents_explain(work):
    report = json.loads((work / "video.jsonl").read_text())
    assert report["step"] == FILMS
    assert 0.7 < report["film"] < 1
    assert 0.3 < report["changes"] < 1


def unexplained(encoder, pixels_NCFHW):
    """Share of the changes within latents, in gray cells of 8 x 8 pixels, that no linear map of latents gives.

    The map is fitted to the first half of the films, the share measured on the second.
    """
    cells = low_resolution(pixels_NCFHW).unflatten(1, (8, 4, 2, 4, 2)).mean((3, 5))  # (N, 8, 4, 4, T, H, W)
    changes = cells.diff(dim=1).flatten(1, 3)
    halves = []
    for rows in (changes, encoder.encode(pixels_NCFHW)):
        halves.append([half.movedim(1, -1).flatten(0, -2) for half in rows.chunk(2)])
    (known, unknown), (seen, unseen) = halves
    seen, unseen = (torch.cat([half, torch.ones(len(half), 1)], dim=1) for half in (seen, unseen))
    penalty = 1e-3 * len(seen) * torch.eye(seen.shape[1])
    linear = torch.linalg.solve(seen.T @ seen + penalty, seen.T @ known)
    return ((unseen @ linear - unknown).square().sum() / unknown.square().sum()).item()


@torch.no_grad()
def test_latents_tell_what_moves_in_unseen_films(encoder):
    pixels = train_video_encoder.pixels_of([film(7, index, 49) for index in range(20)])
    torch.manual_seed(0)
    assert unexplained(encoder, pixels) < 0.7 < 0.85 < unexplained(make_video_encoder(), pixels)


def test_onsets_are_matched_one_to_one_within_the_tolerance():
    assert matches([1.0, 2.0], [1.05, 2.07]) == 1
    assert matches([1.0, 1.01], [1.0]) == 1
    assert matches([0.96, 1.04], [1.0, 1.05]) == 2
    assert score([[1.0, 1.5, 3.0]], [[1.0, 3.05]]) == pytest.approx({"precision": 2 / 3, "recall": 1, "F": 0.8})


def test_peaks_are_the_highest_frames_about():
    likely = torch.zeros(1, 48)
    likely[0, [9, 10, 11, 30]] = torch.tensor([0.4, 0.9, 0.5, 0.2])
    assert peaks(likely, 0.3) == [[pytest.approx(11 / 24)]]


def test_chance_places_as_many_onsets_in_the_film():
    placed = chance([[0.1, 0.2, 0.3], []])
    assert [len(one) for one in placed] == [3, 0]
    assert placed[0] == sorted(placed[0]) and placed[0][-1] < 49 / 24
