"""Recomputed and streamed blocks against the plain model: outputs, gradients and whole trainings are the same bits."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sonolora.conditioning import Example, Video
from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters, remove_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.memory import block_offload as streaming
from sonolora.ltx.memory.block_offload import offload_blocks
from sonolora.ltx.memory.weight_policy import BLOCKS, PLAIN, TABLE, WeightPolicy
from sonolora.ltx.model.transformer import load_transformer
from sonolora.planning.allocations import Allocations
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings, sample
from sonolora.training.trainer import Trainer, TrainingConfig

CPU = torch.device("cpu")
HOLDINGS = {
    "recomputed": WeightPolicy(gradient_checkpointing=True),
    "first recomputed": WeightPolicy(checkpointed_blocks=1),
    "streamed": WeightPolicy(offloaded=True),
}


def load(checkpoint, policy, video):
    return load_transformer(checkpoint, video=video, device=CPU, dtype=torch.float32, policy=policy)


def examples(model, video, count=2):
    audio, watched = model.config.audio, model.config.video
    return [
        Example(
            normal((1, 9, audio.channels), "latents", index),
            normal((1, 8, audio.context_dim), "context", index),
            video=Video(
                normal((1, 12, watched.channels), "video", index),
                normal((1, 3, 12), "positions", index).abs(),
                normal((1, 8, watched.context_dim), "video context", index),
            )
            if video
            else None,
        )
        for index in range(count)
    ]


def trained(checkpoint, policy, video, steps=2):
    """Losses of a few steps, the last gradients, the adapters, and a guided sample."""
    model = load(checkpoint, policy, video)
    adapters = add_adapters(model, AUDIO_TARGETS, 4, 0)
    given = examples(model, video)
    trainer = Trainer(model, adapters, given, TrainingConfig(steps, 1e-2, 0))
    losses = [trainer.step() for _ in range(steps)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = SamplingSettings(2, Guidance(cfg=3.0, stg=1.0))
    with torch.inference_mode():
        noise = normal((1, 9, model.config.audio.channels), "noise")
        sampled = sample(model, given[0], given[1].context_BSD, noise, settings)
    return [*losses, *(parameter.grad for parameter in parameters), *parameters, sampled]


@pytest.mark.parametrize(("video", "weights"), [(False, "full"), (False, "nf4"), (True, "nf4")])
def test_a_training_and_a_sample_are_the_same(checkpoint, video, weights):
    plain = trained(checkpoint, WeightPolicy(weights), video)
    for policy in (WeightPolicy(weights, gradient_checkpointing=True), WeightPolicy(weights, offloaded=True)):
        for ours, expected in zip(trained(checkpoint, policy, video), plain, strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("weights", ["full", "nf4"])
def test_what_computes_never_reads_the_hosts_memory(checkpoint, monkeypatch, weights):
    """Also not the backward pass: all is the same when what waits there is spoilt as soon as it was copied once."""
    plain = trained(checkpoint, WeightPolicy(weights), True)
    kept = {}

    def copy(targets, sources):
        for target, source in zip(targets, sources, strict=True):
            if source.data_ptr() not in kept:
                kept[source.data_ptr()] = source.clone()
                source.view(torch.uint8).fill_(255)  # NaN, where that can be
            target.copy_(kept[source.data_ptr()])

    monkeypatch.setattr(streaming, "_copy", copy)
    for ours, expected in zip(trained(checkpoint, WeightPolicy(weights, offloaded=True), True), plain, strict=True):
        assert torch.equal(ours, expected)


def test_a_pass_leaves_one_input_a_block(checkpoint):
    """Of what it would keep for the backward pass."""

    def kept(policy):
        model = load(checkpoint, policy, False)
        adapters = add_adapters(model, AUDIO_TARGETS, 4, 0)
        trainer = Trainer(model, adapters, examples(model, False), TrainingConfig(2, 1e-2, 0))
        found = []
        with Allocations("cpu") as live:
            model.register_forward_pre_hook(lambda *_: found.append(live.now))
            model.register_forward_hook(lambda *_: found.append(live.now))
            trainer.step()
        return found[1] - found[0]

    assert kept(HOLDINGS["recomputed"]) == kept(HOLDINGS["streamed"]) < kept(PLAIN) / 4


def test_blocks_come_in_time_and_each_once(checkpoint, monkeypatch):
    """Going forward and back over 3 blocks with 2 places: what is still there is not copied again."""
    copied = Counter()
    real = streaming._OffloadedBlocks.fetch

    def fetch(self, index):
        copied[index] += self.slot_blocks[index % 2] != index
        real(self, index)

    monkeypatch.setattr(streaming._OffloadedBlocks, "fetch", fetch)
    model = load(checkpoint, HOLDINGS["streamed"], False)
    trainer = Trainer(
        model, add_adapters(model, AUDIO_TARGETS, 4, 0), examples(model, False), TrainingConfig(9, 1e-2, 0)
    )
    trainer.step()
    assert copied == {0: 2, 1: 1, 2: 1}  # 0 1 2 and back 1 (is there) 0
    trainer.step()
    assert copied == {0: 3, 1: 1, 2: 2}


def test_between_calls_two_blocks_are_on_the_device_and_all_are_themselves(checkpoint):
    model = load(checkpoint, HOLDINGS["streamed"], False)
    frozen = {
        name: tensor.data_ptr()
        for name, tensor in model.named_parameters()
        if name.startswith(BLOCKS) and TABLE not in name
    }
    seen = []
    block = model.transformer_blocks[1]
    block.audio_ff.register_forward_pre_hook(lambda *_: seen.append(block.audio_ff.net[2].weight.data_ptr()))
    adapters = add_adapters(model, AUDIO_TARGETS, 4, 0)
    Trainer(model, adapters, examples(model, False), TrainingConfig(1, 1e-2, 0)).step()
    assert len(seen) == 2  # forward, and again before the backward pass
    assert set(seen).isdisjoint(frozen.values())
    remove_adapters(model)
    after = dict(model.named_parameters())
    away = {name for name, address in frozen.items() if after[name].data_ptr() != address}
    assert {name.removeprefix(BLOCKS)[0] for name in away} == {"0", "1"}
    assert away == {name for name in frozen if name.removeprefix(BLOCKS)[0] in "01"}
    for name, tensor in load(checkpoint, PLAIN, False).named_parameters():
        assert torch.equal(after[name], tensor), name


def test_blocks_that_differ_are_refused():
    blocks = [torch.nn.Linear(4, 4), torch.nn.Linear(4, 5)]
    with pytest.raises(CheckpointError, match="differ in shape or dtype"):
        offload_blocks(blocks, [[*block.parameters()] for block in blocks], CPU)


def test_a_holding_says_what_it_does_not_know():
    with pytest.raises(ValueError, match="'int3' is not one of full, int8, fp8, nf4"):
        WeightPolicy("int3")
