"""A video that does not hear the audio, against the network with both streams whose video is made deaf."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
import torch

from sonolora.conditioning import Example, Video, collate, velocity
from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS, VIDEO_TO_AUDIO_TARGETS
from sonolora.ltx.model.frozen_video import cache_video_kv, video_kv_bytes
from sonolora.ltx.model.transformer import PREFIX, CachedVideoKV, Transformer, load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.training.loss import flow_losses

CPU, F32 = torch.device("cpu"), torch.float32
SIGMAS = torch.tensor([0.2, 0.9])


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return find_base("tiny").checkpoint


@pytest.fixture(scope="module")
def deaf(tiny) -> Transformer:
    """Both streams, where nothing comes of the video's attention to the audio."""
    model = load_transformer(tiny, video=True, device=CPU, dtype=F32)
    for block in model.transformer_blocks:
        for parameter in block.audio_to_video_attn.to_out.parameters():
            parameter.zero_()
    return model


@pytest.fixture
def one_way(tiny) -> Transformer:
    return load_transformer(tiny, video=False, one_way=True, device=CPU, dtype=F32)


@pytest.fixture(scope="module")
def example(deaf) -> Example:
    """Two clips of 20 frames with films of 2 x 3 x 4 tokens; noise stands for their latents and contexts."""
    audio, video = deaf.config.audio, deaf.config.video
    grid = torch.cartesian_prod(torch.tensor([0.0, 0.25]), 32 * torch.arange(3.0), 32 * torch.arange(4.0)) + 0.1
    return Example(
        normal((2, 20, audio.channels), "audio"),
        normal((2, 8, audio.context_dim), "words"),
        video=Video(
            normal((2, 24, video.channels), "video"),
            grid.T.expand(2, -1, -1),
            normal((2, 8, video.context_dim), "film"),
        ),
    )


def one(example: Example, index: int) -> Example:
    """One sample of a batch."""
    video = example.video
    part = slice(index, index + 1)
    return Example(
        example.latents_BTC[part],
        example.context_BSD[part],
        video=Video(video.latents_BNC[part], video.positions_BXN[part], video.context_BSD[part]),
    )


@pytest.fixture(scope="module")
def watched(tiny, example) -> Example:
    """The same with what the audio sees of the films, each of which was watched alone."""
    videos = [one(example, index).video.stream for index in range(2)]
    seen = cache_video_kv(tiny, videos, device=CPU, dtype=F32, storage_device=CPU)
    return collate([replace(one(example, index), video=each) for index, each in enumerate(seen)])


@pytest.mark.parametrize("perturbed", [frozenset(), frozenset({3})], ids=["", "perturbed"])
def test_it_is_the_network_whose_video_is_deaf(deaf, one_way, example, watched, perturbed):
    noisy = normal((2, 20, deaf.config.audio.channels), "noisy")
    expected, found = (
        velocity(model, given, noisy, SIGMAS, values_only_blocks=perturbed)
        for model, given in ((deaf, example), (one_way, watched))
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    blind = velocity(one_way, replace(watched, video=None), noisy, SIGMAS, values_only_blocks=perturbed)
    torch.testing.assert_close(
        blind, velocity(deaf, replace(example, video=None), noisy, SIGMAS, values_only_blocks=perturbed)
    )
    assert (found - blind).abs().max() > 1e-2, "and the video counts"


def test_gradients_are_those_of_the_deaf_network(tiny, deaf, one_way, example, watched):
    adapters = add_adapters(one_way, (*AUDIO_TARGETS, *VIDEO_TO_AUDIO_TARGETS), 4, seed=0)
    assert not any(name.endswith(("video_to_audio_attn.to_k", "video_to_audio_attn.to_v")) for name in adapters)
    both = load_transformer(tiny, video=True, device=CPU, dtype=F32)
    both.load_state_dict(deaf.state_dict())
    others = add_adapters(both, (*AUDIO_TARGETS, *VIDEO_TO_AUDIO_TARGETS), 4, seed=0)
    assert len(others) == len(adapters) + 2 * deaf.config.layers
    for each in (adapters, others):
        for name, matrix in each.matrices(each.flat.data).items():
            if name.endswith("lora_B") and name.removesuffix(".lora_B") in adapters:
                matrix.copy_(0.02 * normal(tuple(matrix.shape), "B", name))
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    losses = [flow_losses(model, given, noise, SIGMAS) for model, given in ((both, example), (one_way, watched))]
    torch.testing.assert_close(losses[1], losses[0])
    for each in losses:
        each.sum().backward()
    expected = others.matrices(others.flat.grad)
    for name, gradient in adapters.matrices(adapters.flat.grad).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_only_the_needed_tensors_are_read(tiny, tmp_path, one_way, watched, example):
    """The audio's half and the video's hold together what both streams hold, but for the video's ears."""
    with torch.device("meta"):
        halves = [Transformer(one_way.config, video=video, one_way=True).state_dict().keys() for video in (False, True)]
        both = Transformer(one_way.config, video=True).state_dict().keys()
    assert not halves[0] & halves[1]
    ears = both - halves[0] - halves[1]
    assert ears and all("audio_to_video_attn" in name or "av_ca_a2v_gate" in name for name in ears)
    # Files without the rest load, and files with one tensor less do not.
    assert load_transformer(only(tiny, halves[0], tmp_path), video=False, one_way=True, device=CPU, dtype=F32)
    video_alone = only(tiny, halves[1], tmp_path)
    (seen,) = cache_video_kv(video_alone, [one(example, 0).video.stream], device=CPU, dtype=F32, storage_device=CPU)
    assert torch.equal(seen.keys_BLHNK, watched.video.keys_BLHNK[:1])
    missing = "transformer_blocks.2.video_to_audio_attn.to_v.bias"
    with pytest.raises(CheckpointError, match=missing):
        cache_video_kv(
            only(tiny, halves[1] - {missing}, tmp_path),
            [one(example, 0).video.stream],
            device=CPU,
            dtype=F32,
            storage_device=CPU,
        )


def only(checkpoint: Checkpoint, names, folder) -> Checkpoint:
    """A copy of a file's header and data with some tensors alone."""
    data, header, offset = [], {}, 0
    source = checkpoint.path.read_bytes()
    for name in sorted(PREFIX + name for name in names):
        info = checkpoint.tensors[name]
        data.append(source[info.start : info.end])
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [offset, offset + len(data[-1])]}
        offset += len(data[-1])
    header["__metadata__"] = {"config": json.dumps(checkpoint.config)}
    text = json.dumps(header).encode()
    path = folder / "part.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    return Checkpoint.open(path)


def test_the_size_is_known_beforehand(tiny, watched):
    config = TransformerConfig.from_header(tiny.section("transformer"))
    seen: CachedVideoKV = watched.video
    assert 2 * video_kv_bytes(config, 24, F32) == seen.keys_BLHNK.nbytes + seen.values_BLHNK.nbytes


def test_a_video_of_the_other_form_is_refused(deaf, one_way, example, watched):
    noisy = normal(tuple(example.latents_BTC.shape), "noisy")
    with pytest.raises(ValueError, match="with its video stream, but got a CachedVideoKV"):
        velocity(deaf, watched, noisy, SIGMAS)
    with pytest.raises(ValueError, match="for a one-way video, but got a Stream"):
        velocity(one_way, example, noisy, SIGMAS)
