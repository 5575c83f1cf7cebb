"""A training step and the sampler on a device that has another memory than the host's, as a card has.

A tensor left on the host, and a host that waits for the device, are errors there. CUDA graphs are emulated: what is
captured is recorded, and replayed on the same memory.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from separate_memory import (
    CPU,
    DEVICE,
    FakeGraph,
    HostTensorError,
    WaitError,
    no_waits,
    pinning,
    raw,
    without_inference_mode,
)

from sonolora.conditioning import Example, Video, map_tensors, move_examples
from sonolora.core.randomness import normal
from sonolora.cuda_graph import CudaGraphStep, CudaGraphSteps
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.model.frozen_video import cache_video_kv
from sonolora.ltx.model.transformer import load_transformer
from sonolora.sampling.denoiser import GuidedDenoiser
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.noise_schedule import sampling_sigmas
from sonolora.sampling.sampler import SAMPLERS, SamplingSettings, sample
from sonolora.training.trainer import Trainer, TrainingConfig

STEPS = 5
KINDS = ("audio", "kept", "video", "one-way video")  # kept: with a reference


@pytest.fixture
def pinned(monkeypatch):
    """Memory can be pinned."""
    with pinning(monkeypatch):
        yield


@pytest.fixture
def sampling(monkeypatch):
    """Sampling runs on that device."""
    with without_inference_mode(monkeypatch):
        yield


@pytest.fixture
def make_examples(checkpoint, cases):
    """Three clips of a kind, on the CPU."""

    def make(kind, count=3):
        video = Video(cases["video_latents"][:1], cases["video_positions"].mean(-1)[:1], cases["video_context"][:1])
        if kind == "one-way video":
            (video,) = cache_video_kv(checkpoint, [video.stream], device=CPU, dtype=torch.float32, storage_device=CPU)
        return [
            Example(
                normal((1, 26, 32), "clip", index),
                cases["audio_context"][:1],
                keep_BT=torch.arange(26)[None] < 5 if kind == "kept" else None,
                reference_BRC=normal((1, 9, 32), "reference", index) if kind == "kept" else None,
                video=video if "video" in kind else None,
            )
            for index in range(count)
        ]

    return make


@pytest.fixture
def make_model(checkpoint):
    """The golden model with adapters."""

    def make(kind, device):
        model = load_transformer(
            checkpoint, video=kind == "video", one_way=kind == "one-way video", device=device, dtype=torch.float32
        )
        return model, add_adapters(model, AUDIO_TARGETS, 4, 1)

    return make


@pytest.fixture
def make_trainer(make_model, make_examples):
    def make(kind, device, **options):
        model, adapters = make_model(kind, device)
        config = TrainingConfig(steps=STEPS, learning_rate=1e-2, seed=1, batch_size=2)
        examples = make_examples(kind)
        examples = examples if device == CPU else move_examples(examples, device)
        return Trainer(model, adapters, examples, config, **options)

    return make


@pytest.fixture
def fake_cuda(monkeypatch):
    """`torch.cuda`'s streams and graphs on that device; what is done is listed in `calls`."""
    calls = []

    class Stream:
        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

        def __init__(self, name="side"):
            self.name = name

    current = [Stream("main")]

    @contextmanager
    def stream(entered):
        before = list(current)
        current.append(entered)
        try:
            yield
        finally:
            current[:] = before

    class Graph(FakeGraph):
        def replay(self):
            calls.append("replay")
            super().replay()

    @contextmanager
    def graph(captured, pool=None):  # noqa: ARG001
        calls.append("capture")
        current.append(Stream("capture"))
        with captured.capture():
            yield
        current.pop()  # not after a failure, as torch's

    for name, fake in {
        "Stream": Stream,
        "stream": stream,
        "current_stream": lambda: current[-1],
        "CUDAGraph": Graph,
        "graph": graph,
        "device": lambda _: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return SimpleNamespace(calls=calls, current=lambda: current[-1].name)


@pytest.mark.usefixtures("pinned")
def test_the_device_refuses_what_a_card_refuses():
    here, there = torch.ones(3), torch.ones(3).to(DEVICE)
    with pytest.raises(HostTensorError, match=r"a tensor \(3,\) of the host"):
        there + here
    assert raw(there * torch.tensor(2.0)).tolist() == [2, 2, 2]
    with no_waits():
        for wait in (there.sum().item, there.cpu, lambda: here.to(DEVICE), lambda: there[there > 0]):
            with pytest.raises(WaitError):
                wait()
        assert raw(here.pin_memory().to(DEVICE, non_blocking=True)).tolist() == [1, 1, 1]


def test_the_emulated_graph_behaves_as_one():
    x, out = torch.ones(2).to(DEVICE), torch.zeros(2).to(DEVICE)
    graph = FakeGraph()
    with graph.capture():
        doubled = x * 2
        out.add_(doubled)
    assert raw(out).tolist() == [0, 0], "capturing computes nothing"
    assert raw(doubled).isnan().all()
    raw(x).fill_(3)
    graph.replay()
    graph.replay()
    assert raw(out).tolist() == [12, 12]


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.usefixtures("pinned")
def test_training_steps_take_nothing_from_the_host_and_do_not_wait(make_trainer, kind):
    trainer, on_cpu = make_trainer(kind, DEVICE), make_trainer(kind, CPU)
    losses = [trainer.step()]  # constants are copied, and the optimiser makes its state
    with no_waits():
        losses += [trainer.step() for _ in range(2)]
    for found in losses:
        torch.testing.assert_close(raw(found), on_cpu.step(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("pinned")
def test_training_steps_copy_examples_from_pinned_memory_without_waiting(make_trainer, make_examples):
    trainer = make_trainer("audio", DEVICE)
    trainer._examples = move_examples(make_examples("audio"), CPU, pin=True)
    trainer.step()
    with no_waits():
        trainer.step()
    trainer._examples = make_examples("audio")
    with no_waits(), pytest.raises(WaitError, match="not pinned"):
        trainer.step()


@pytest.mark.parametrize("kind", ["kept", "one-way video"])
@pytest.mark.usefixtures("pinned")
def test_a_captured_step_is_the_step(make_trainer, fake_cuda, kind):
    """Everything that changes from step to step reaches it: clip, noise, noise level, learning rate, Adam's count."""
    captured, eager = make_trainer(kind, DEVICE, graph=CudaGraphStep()), make_trainer(kind, DEVICE)
    losses = [(captured.step(), eager.step()) for _ in range(STEPS)]
    for found, expected in losses:
        torch.testing.assert_close(raw(found), raw(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(captured.state(), eager.state(), rtol=1e-5, atol=1e-6)
    assert fake_cuda.calls == [*["side waits for main", "main waits for side"] * 3, "capture", *["replay"] * 2]


@pytest.mark.usefixtures("pinned")
def test_a_capture_that_fails_loses_no_step(make_trainer, fake_cuda, monkeypatch):
    """The steps are those without a graph, there is one warning, and the stream is the one of before."""
    warnings = []
    captured = make_trainer("audio", DEVICE, graph=CudaGraphStep(warn=warnings.append))
    eager = make_trainer("audio", DEVICE)
    compute = Trainer._compute

    def waiting(self, *inputs):
        losses = compute(self, *inputs)
        if self is captured:
            losses.sum().item()
        return losses

    monkeypatch.setattr(Trainer, "_compute", waiting)
    for _ in range(STEPS):
        assert torch.equal(raw(captured.step()), raw(eager.step()))
    assert len(warnings) == 1
    assert "could not be captured" in warnings[0]
    assert "WaitError: the host waits for the device: aten._local_scalar_dense" in warnings[0]
    assert fake_cuda.calls.count("capture") == 1
    assert "replay" not in fake_cuda.calls
    assert fake_cuda.current() == "main"


@pytest.mark.parametrize(("kind", "sampler"), [("audio", "ab2"), *((kind, "euler") for kind in KINDS[1:])])
@pytest.mark.usefixtures("sampling")
def test_sampling_steps_take_nothing_from_the_host_and_do_not_wait(make_model, make_examples, kind, sampler):
    settings = SamplingSettings(3, Guidance(cfg=3.0, stg=1.0, modality=2.0), sampler)
    (example,) = make_examples(kind, count=1)
    noise = normal(tuple(example.latents_BTC.shape), "noise")
    expected = sample(make_model(kind, CPU)[0], example, 0.5 * example.context_BSD, noise, settings)
    model, _ = make_model(kind, DEVICE)
    example = map_tensors(lambda parts: parts[0].to(DEVICE), example)
    denoise = GuidedDenoiser(model, example, 0.5 * example.context_BSD, settings.guidance)
    noise = noise.to(DEVICE)
    denoise(noise, 1.0)  # constants are copied
    with no_waits():
        found = SAMPLERS[sampler](denoise, noise, sampling_sigmas(3).tolist())
    torch.testing.assert_close(raw(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["kept", "video"])
@pytest.mark.usefixtures("sampling")
def test_sounds_of_equal_shapes_share_captured_passes(make_model, make_examples, fake_cuda, kind):
    model, _ = make_model(kind, DEVICE)
    eager = SamplingSettings(4, Guidance(cfg=3.0, stg=1.0, modality=2.0))
    graphed = replace(eager, graphs=CudaGraphSteps())
    for example in move_examples(make_examples(kind, count=2), DEVICE):
        noise = normal(tuple(example.latents_BTC.shape), "noise").to(DEVICE)
        found, expected = (
            sample(model, example, 0.5 * example.context_BSD, noise, settings) for settings in (graphed, eager)
        )
        torch.testing.assert_close(raw(found), raw(expected), rtol=1e-5, atol=1e-6)
    passes = 2 if "video" in kind else 1
    assert fake_cuda.calls.count("capture") == passes
    assert fake_cuda.calls.count("replay") == passes * (2 * 4 - 3)


@pytest.mark.usefixtures("sampling", "fake_cuda")
def test_a_pass_keeps_one_video_for_all_its_predictions(make_model, make_examples):
    """Keys and values of one video in LTX-2.3 are gigabytes."""
    model, _ = make_model("one-way video", DEVICE)
    (example,) = move_examples(make_examples("one-way video", count=1), DEVICE)
    graphs = CudaGraphSteps()
    noise = normal(tuple(example.latents_BTC.shape), "noise").to(DEVICE)
    sample(model, example, 0.5 * example.context_BSD, noise, SamplingSettings(1, Guidance(), graphs=graphs))
    kept = [step._inputs[0] for step, _ in graphs._steps.values()]
    batch = [one for one in kept if one.video is not None]
    assert len(batch) == 1
    assert batch[0].video.keys_BLHNK.shape[0] == 3
    assert batch[0].video.keys_BLHNK.stride(0) == 0
