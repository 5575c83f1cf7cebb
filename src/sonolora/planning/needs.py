"""What a run needs of a device's memory, stage by stage, before it starts.

In: a base's shape, a mode, a request, a device. Out: `Needs`: for every stage what is held and how much at most.
Weights are counted by the checkpoint's header, all else by `counts`; nothing of it is measured on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sonolora.core.devices import compute_dtype
from sonolora.core.frames import frame_count
from sonolora.ltx.model.frozen_video import video_kv_bytes
from sonolora.media.video import frame_size
from sonolora.modes.mode import Mode
from sonolora.modes.preview_spec import PreviewSpec, VideoFormat
from sonolora.modes.request import TrainRequest
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import (
    Step,
    StepBytes,
    Tokens,
    decoding_bytes,
    encoding_bytes,
    preview_bytes,
    step_bytes,
    text_bytes,
    video_caching_bytes,
)
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.sampler import SamplingSettings

PREVIEW_STEPS = SamplingSettings().steps  # as published

# An assumption, not a measurement: code of the kernels that CUDA loads when they are first used, workspaces of matrix
# products and convolutions, and what the allocator loses to rounding and gaps.
CUDA_RESERVE = 1 << 30
_KINDS_OF_PASSES = 3  # of the sampler: as given, perturbed, without the film


@dataclass(frozen=True)
class Stage:
    """One stage of a run. `held`: bytes by what holds them, all through it. `working`: bytes beside them at most."""

    name: str
    held: Mapping[str, int]
    working: int

    @property
    def peak(self) -> int:
        """Bytes at most."""
        return sum(self.held.values()) + self.working


@dataclass(frozen=True)
class Needs:
    """A run's stages, in their order."""

    tokens: Tokens  # of a training clip
    text_tokens: int
    stages: tuple[Stage, ...]
    step: StepBytes
    reserve: int
    watched: int = 0  # what the audio sees of all films, which may lie on the device or in the host's memory
    host_bytes: int = 0  # blocks that wait in the host's memory

    @property
    def peak(self) -> int:
        """Bytes at most, with the reserve."""
        return max(stage.peak for stage in self.stages) + self.reserve


def training_tokens(mode: Mode, request: TrainRequest) -> Tokens:
    """The shape of every training example."""
    frames = frame_count(request.clip_seconds)
    film = None
    if mode.video:
        width, height = frame_size(request.resolution, request.aspect_ratio)
        film = VideoFormat(request.number_of_frames, request.frame_rate, width, height)
    return Tokens(frames, frames if mode.reference else 0, mode.kept, film)


def preview_tokens(spec: PreviewSpec, *, one_way: bool = False) -> Tokens:
    """The shape of a preview; what is given to it may make it shorter."""
    frames = frame_count(spec.seconds)
    return Tokens(frames, frames if spec.reference else 0, spec.regenerate is not None, spec.video_format, one_way)


def preview_guidance(metadata: Mapping[str, Any], request: TrainRequest) -> Guidance:
    """How previews are guided: as the request says, else as the metadata of the base's checkpoint does."""
    return Guidance.of_base(metadata, stg=request.requested_stg_scale)


def preview_sampling(metadata: Mapping[str, Any], request: TrainRequest, settings: RunSettings) -> SamplingSettings:
    """How previews are sampled."""
    return SamplingSettings(PREVIEW_STEPS, preview_guidance(metadata, request), static=settings.cuda_graph)


def training_step(mode: Mode, request: TrainRequest, settings: RunSettings) -> Step:
    """What every step is made of."""
    tokens = replace(training_tokens(mode, request), one_way=settings.one_way_video)
    return Step(mode.lora_targets, request.rank, tokens, settings.batch_size, settings.policy)


def count_needs(
    shape: BaseShape, mode: Mode, request: TrainRequest, settings: RunSettings, device: torch.device, clips: int = 1
) -> Needs:
    """What a run with so many clips needs on a device, which counts before that of the settings.

    Of films that do not hear the audio, the stages count what a step or a preview has copied to the device.
    """
    kind, dtype, video, one_way = device.type, compute_dtype(device), mode.video, settings.one_way_video
    what = training_step(mode, request, settings)
    tokens = what.tokens
    previews = [preview_tokens(spec, one_way=one_way) for spec in mode.previews(request)]
    step = step_bytes(shape, what, kind)
    guidance = preview_guidance(shape.metadata, request)
    held = replace(what.policy, gradient_checkpointing=False, offloaded=False)  # a preview has no backward pass
    looks = [preview_bytes(shape, tokens, kind, None, held)]  # the fixed grid
    for preview in previews:
        looks += [preview_bytes(shape, preview, kind, guidance, held), decoding_bytes(shape, preview.audio)]

    waiting = shape.offloaded_bytes(dtype, video=tokens.joint, one_way=one_way, policy=what.policy)
    codec = {"audio codec and vocoder": shape.codec_bytes()}
    encoders = codec | ({"video encoder": shape.video_encoder_bytes(dtype)} if video else {})
    training = {
        **codec,
        "transformer": shape.transformer_bytes(dtype, video=tokens.joint, one_way=one_way, policy=what.policy)
        + (0 if kind == "cuda" else waiting),
        "adapters, gradients and moments": step.held - step.example,
        "clips": 0 if one_way else step.example * clips,
    }
    watching: list[Stage] = []
    if one_way:
        films = [video_caching_bytes(shape, one, kind) for one in (tokens, *previews)]
        kept = {name: training[name] for name in (*codec, "transformer")}
        block = {"video stream, a block at a time": films[0][0]}
        watching.append(Stage("watching the films", kept | block, max(working for _, working in films)))
    # What is captured has inputs of its own, and a step keeps what it works with while previews are made.
    inputs = {"inputs of a step": step.example * settings.batch_size} if settings.cuda_graph else {}
    captured = (
        {"captured step": step.peak - step.held, "inputs of passes": _KINDS_OF_PASSES * step.example}
        if settings.cuda_graph
        else {}
    )
    sent = step.example * settings.batch_size if one_way else 0  # before they are joined
    stages = (
        Stage("encoding the clips", encoders, max(encoding_bytes(shape, one, kind) for one in (tokens, *previews))),
        Stage("encoding the texts", encoders, text_bytes(shape, kind, video=video)),
        *watching,
        Stage("training", training | inputs, step.peak - step.held + sent),
        Stage("listening", training | inputs | captured | {"adapters, exact": step.adapters}, max(looks)),
    )
    reserve = CUDA_RESERVE if kind == "cuda" else 0
    seen = [tokens] * clips + previews
    watched = sum(video_kv_bytes(shape.transformer_config, one.video, dtype) for one in seen) if one_way else 0
    return Needs(tokens, shape.text_places, stages, step, reserve, watched, waiting if kind == "cuda" else 0)
