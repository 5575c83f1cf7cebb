"""The video encoder and the positions of its tokens."""

from __future__ import annotations

import copy

import pytest
import torch

from sonolora.core.errors import CheckpointError
from sonolora.ltx.codec.video_encoder import VideoEncoder, load_video_encoder, video_token_midpoints
from sonolora.ltx.weights.checkpoint import Checkpoint

CPU = torch.device("cpu")


def blocks(*entries: tuple[str, int]) -> list[list]:
    return [[kind, {"num_layers" if kind == "res_x" else "multiplier": count}] for kind, count in entries]


PUBLISHED_BLOCKS = blocks(
    ("res_x", 4),
    ("compress_space_res", 2),
    ("res_x", 6),
    ("compress_time_res", 2),
    ("res_x", 4),
    ("compress_all_res", 2),
    ("res_x", 2),
    ("compress_all_res", 1),
    ("res_x", 2),
)


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> VideoEncoder:
    return load_video_encoder(checkpoint, device=CPU, dtype=torch.float32)


def test_golden(encoder, cases):
    torch.testing.assert_close(encoder.encode(cases["video.frames_pm1"]), cases["video.latents_bcfhw"])


def test_statistics_normalise(encoder, cases, rewrite):
    name = "vae.per_channel_statistics.std-of-means"
    halved = {name: (encoder.latents_std / 2).bfloat16()}
    other = load_video_encoder(rewrite(halved), device=CPU, dtype=torch.float32)
    torch.testing.assert_close(other.encode(cases["video.frames_pm1"]), 2 * cases["video.latents_bcfhw"])


def test_bfloat16_is_near(checkpoint, cases):
    encoder = load_video_encoder(checkpoint, device=CPU, dtype=torch.bfloat16)
    latents = encoder.encode(cases["video.frames_pm1"])
    expected = cases["video.latents_bcfhw"]
    assert latents.dtype == torch.float32
    assert (latents - expected).std() < 0.05 * expected.std()


def test_published_structure(checkpoint):
    section = {**checkpoint.section("vae"), "latent_channels": 128, "encoder_blocks": PUBLISHED_BLOCKS}
    with torch.device("meta"):
        encoder = VideoEncoder(section)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == pytest.approx(318.9e6, abs=0.05e6)
    names = {encoder.checkpoint_name(name) for name in encoder.state_dict()}
    assert len(names) == len(encoder.state_dict()) == 84 + 2
    assert "vae.encoder.down_blocks.8.res_blocks.1.conv2.conv.weight" in names
    assert encoder.network.conv_out.conv.weight.shape == (129, 1024, 3, 3, 3)


def test_other_encoders_are_refused(checkpoint):
    section = copy.deepcopy(dict(checkpoint.section("vae")))
    for change, words in (
        ({"norm_layer": "group_norm"}, "group_norm"),
        ({"encoder_blocks": PUBLISHED_BLOCKS[:-1]}, "not supported"),
        ({"encoder_blocks": [["attn_res_x", {"num_layers": 1}], *PUBLISHED_BLOCKS[1:]]}, "attn_res_x"),
        ({"encoder_blocks": [PUBLISHED_BLOCKS[0], ["compress_all", {}], *PUBLISHED_BLOCKS[2:]]}, "compress_all"),
        ({"encoder_blocks": PUBLISHED_BLOCKS[2:]}, "16 pixels"),
    ):
        with pytest.raises(CheckpointError, match=words):
            VideoEncoder({**section, **change})


def test_missing_setting_is_named(checkpoint, rewrite):
    config = copy.deepcopy(dict(checkpoint.config))
    del config["vae"]["latent_channels"]
    with pytest.raises(CheckpointError, match="latent_channels"):
        load_video_encoder(rewrite({}, config), device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("shape", [(8, 64, 96), (9, 48, 96), (9, 64, 100)])
def test_frames_must_fill_latents(shape, encoder):
    with pytest.raises(ValueError, match="do not fill"):
        encoder.encode(torch.zeros(1, 3, *shape))


def test_golden_positions(cases):
    expected = cases["video_positions"].mean(-1)[0]
    torch.testing.assert_close(video_token_midpoints(3, 2, 3, fps=24), expected)


def test_positions_follow_the_frame_rate():
    middles = video_token_midpoints(2, 1, 1, fps=10)
    torch.testing.assert_close(middles[:, 1], torch.tensor([0.5, 16.0, 16.0]))  # frames 1..9, so 0.1 s to 0.9 s
