"""Compiled blocks compared with eager ones."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from sonolora.conditioning import Example, Video, velocity
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS, VIDEO_TO_AUDIO_TARGETS
from sonolora.ltx.memory.weight_policy import PLAIN
from sonolora.ltx.model.transformer import load_transformer
from sonolora.training.trainer import Trainer, TrainingConfig

# torch's own, of what it does when it compiles.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore:.*grad")]
CPU = torch.device("cpu")
Q = "transformer_blocks.0.audio_attn1.to_q"


def examples(cases):
    film = Video(cases["video_latents"], cases["video_positions"].mean(-1), cases["video_context"])
    alone = Example(cases["audio_latents"], cases["audio_context"])
    return {False: alone, True: replace(alone, video=film)}


def load(checkpoint, video, policy=PLAIN):
    model = load_transformer(checkpoint, video=video, device=CPU, dtype=torch.float32, policy=policy)
    return model, add_adapters(model, (*AUDIO_TARGETS, *(VIDEO_TO_AUDIO_TARGETS if video else ())), 4, seed=0)


@pytest.mark.parametrize(
    ("video", "weights"),
    [pytest.param(False, "nf4", id="audio-nf4"), pytest.param(True, "nf4", marks=pytest.mark.slow, id="video-nf4")],
)
def test_a_block_is_one_graph(checkpoint, cases, video, weights):
    """Dynamo captures each block in one graph (`fullgraph` raises otherwise), which then runs eagerly: no compiler is
    needed. The blocks share their graphs."""
    torch._dynamo.reset()
    graphs = []

    def record(graph, _):
        graphs.append(graph)
        return graph

    example, sigma = examples(cases)[video], torch.full_like(cases["audio_latents"][:, 0, 0], 0.5)
    results = []
    for compiled in (False, True):
        model, adapters = load(checkpoint, video, replace(PLAIN, weights=weights))
        if compiled:
            for block in model.transformer_blocks:
                block.compile(backend=record, fullgraph=True)
        up = adapters.matrices(adapters.flat.data)[f"{Q}.lora_B"]
        up.copy_(normal(tuple(up.shape), "B"))
        predicted = velocity(model, example, example.latents_BTC, sigma)
        predicted.square().sum().backward()
        perturbed = velocity(model, example, example.latents_BTC, sigma, values_only_blocks=frozenset({1}))
        results.append((predicted, perturbed, adapters.flat.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=3e-5, rtol=1e-5)
    assert 0 < len(graphs) < 2 * len(model.transformer_blocks)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_matches_eager_training(checkpoint, cases):
    losses = []
    for compiled in (False, True):
        model, adapters = load(checkpoint, True, replace(PLAIN, gradient_checkpointing=True, compiled=compiled))
        trainer = Trainer(model, adapters, [examples(cases)[True]], TrainingConfig(10, 1e-3, 0))
        losses.append(torch.cat([trainer.step() for _ in range(10)]))
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=1e-4)
    assert losses[0][-1] != losses[0][0]
