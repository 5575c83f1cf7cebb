"""How long a preview takes on this device: sampling with guidance, then the decoder and the vocoder.

In: a base's shape, a mode's clip. Out: seconds of both, with random weights and a random example, which take as long as
real ones. The second of two previews is measured; the first warms up with a few sampling steps.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from sonolora.core.devices import compute_dtype
from sonolora.cuda_graph import CudaGraphSteps
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench.machine_limits import device_name
from sonolora.planning.bench.synthetic import fail, synthetic_model
from sonolora.planning.needs import preview_guidance, training_step
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import make_example
from sonolora.sampling.sampler import SamplingSettings, sample
from sonolora.training.step_phases import clock

_STEPS_UNTIL_REPLAY = 4  # of the sampler, until its graphs are captured


@dataclass(frozen=True)
class PreviewTime:
    """Seconds, for a preview as long as a training clip."""

    mode: str
    base: str
    options: tuple[str, ...]
    device: str
    audio_tokens: int
    sampling_steps: int
    sampling_seconds: float
    decoding_seconds: float


def measure_preview(
    shape: BaseShape, mode: Mode, request: TrainRequest, settings: RunSettings, *, rank: int, steps: int
) -> PreviewTime:
    """Render one preview with `steps` sampling steps. Raises `SonoloraError` for a device that is not there."""
    settings.check_mode(mode)
    device = settings.place()
    step = replace(training_step(mode, request, settings), rank=rank)
    layers = shape.transformer_config.layers
    model = synthetic_model(shape, layers, step, device)
    add_adapters(model, step.targets, step.rank, settings.seed)
    example = make_example(shape, step.tokens, device, compute_dtype(device), layers)
    negative_context = torch.randn_like(example.context_BSD)
    codec = deepcopy(shape.codec)
    for module in (codec.vae, codec.vocoder):
        module.to_empty(device=device)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data.normal_(std=0.02)
    noise = torch.randn_like(example.latents_BTC)
    guidance = preview_guidance(shape, request)
    mark, elapsed = clock(device)
    graphs = CudaGraphSteps(fail) if settings.cuda_graph else None
    for count in (1 if graphs is None else _STEPS_UNTIL_REPLAY, steps):
        moments = [mark()]
        sampling = SamplingSettings(count, guidance, graphs=graphs)
        latents = sample(model, example, negative_context, noise, sampling)
        moments.append(mark())
        codec.decode(latents)
        moments.append(mark())
    sampling_seconds, decoding_seconds = (elapsed(*pair) / 1000 for pair in pairwise(moments))
    return PreviewTime(
        mode.name,
        shape.name,
        settings.given(),
        device_name(device),
        step.tokens.audio,
        steps,
        sampling_seconds,
        decoding_seconds,
    )
