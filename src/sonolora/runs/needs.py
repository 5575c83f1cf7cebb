"""What a run needs of a device's memory, stage by stage, before it starts.

In: a base's shape, a mode, a request, a device. Out: `Needs`: for every stage what is held and how much at most.
Weights are counted by the checkpoint's header, all else by `counts`; nothing of it is measured on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sonolora.frames import frame_count
from sonolora.media.video import frame_size
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.modes.wanted import FilmFormat, Wanted
from sonolora.runs.counts import (
    Step,
    StepBytes,
    Tokens,
    decoding_bytes,
    encoding_bytes,
    look_bytes,
    step_bytes,
    text_bytes,
)
from sonolora.runs.settings import RunSettings, compute_dtype
from sonolora.runs.shapes import BaseShape
from sonolora.sampling.guidance import Guidance

# An assumption, not a measurement: code of the kernels that CUDA loads when they are first used, workspaces of matrix
# products and convolutions, and what the allocator loses to rounding and gaps.
CUDA_RESERVE = 1 << 30


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
    host_bytes: int  # passes through the host's memory on its way to a card
    reserve: int

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
        film = FilmFormat(request.number_of_frames, request.frame_rate, width, height)
    return Tokens(frames, frames if mode.reference else 0, mode.kept, film)


def preview_tokens(wanted: Wanted) -> Tokens:
    """The shape of a preview; what is given to it may make it shorter."""
    frames = frame_count(wanted.seconds)
    return Tokens(frames, frames if wanted.reference else 0, wanted.regenerate is not None, wanted.film)


def preview_guidance(shape: BaseShape, request: TrainRequest) -> Guidance:
    """How previews are guided."""
    return Guidance.of_base(shape.metadata, stg=request.stg_scale)


def training_step(mode: Mode, request: TrainRequest, settings: RunSettings) -> Step:
    """What every step is made of."""
    return Step(mode.lora_targets, request.rank, training_tokens(mode, request), settings.batch_size)


def count_needs(
    shape: BaseShape, mode: Mode, request: TrainRequest, settings: RunSettings, device: torch.device, clips: int = 1
) -> Needs:
    """What a run with so many clips needs on a device, which counts before that of the settings."""
    kind, dtype, video = device.type, compute_dtype(device), mode.video
    tokens = training_tokens(mode, request)
    previews = [preview_tokens(wanted) for wanted in mode.previews(request)]
    step = step_bytes(shape, training_step(mode, request, settings), kind)
    guidance = preview_guidance(shape, request)
    looks = [look_bytes(shape, tokens, kind, None)]  # the fixed grid
    for preview in previews:
        looks += [look_bytes(shape, preview, kind, guidance), decoding_bytes(shape, preview.audio)]

    codec = {"audio codec and vocoder": shape.codec_bytes()}
    encoders = codec | ({"video encoder": shape.video_encoder_bytes(dtype)} if video else {})
    language_model, read = shape.text_encoder_bytes(dtype)
    text = {"text encoder": language_model, "text projections": shape.projector_bytes(dtype, video=video)}
    training = {
        **codec,
        **({} if kind == "cuda" else text),  # it is let go of on a card, and kept on a CPU
        "transformer": shape.transformer_bytes(dtype, video=video),
        "adapters, gradients and moments": step.held - step.example,
        "clips": step.example * clips,
    }
    stages = (
        Stage("encoding the clips", encoders, max(encoding_bytes(shape, one, kind) for one in (tokens, *previews))),
        Stage("encoding the texts", encoders | text, text_bytes(shape, kind, video=video)),
        Stage("training", training, step.peak - step.held),
        Stage("listening", training | {"adapters, exact": step.adapters}, max(looks)),
    )
    reserve = CUDA_RESERVE if kind == "cuda" else 0
    return Needs(tokens, shape.text_places, stages, step, read if kind == "cuda" else 0, reserve)
