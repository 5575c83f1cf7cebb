"""What a run needs of a device's memory, stage by stage, before it starts.

In: a base's shape, a mode, a request, a device. Out: `Needs`. Weights are counted from the checkpoint's header,
everything else by `work_counts`; nothing is measured on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sonolora.core.devices import compute_dtype
from sonolora.core.frames import frame_count
from sonolora.data.foreign_captions import FOREIGN_CAPTIONS
from sonolora.ltx.lora.layer_kinds import AUDIO_KINDS, KINDS, layer_kind
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.model.frozen_video import video_kv_bytes
from sonolora.ltx.weights.base import Base
from sonolora.media.video import frame_size
from sonolora.modes.mode import Mode
from sonolora.modes.preview_spec import PreviewSpec, VideoFormat
from sonolora.modes.request import TrainRequest
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.lora_option import parse_lora
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import (
    Step,
    StepBytes,
    Tokens,
    decoding,
    encoding,
    preview_bytes,
    step_bytes,
    text_encoding,
    video_caching,
)
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.noise_schedule import DISTILLED_STEPS
from sonolora.sampling.sampler import SamplingSettings

PREVIEW_STEPS = SamplingSettings().steps  # as published
# An assumption, not a measurement: code of kernels that CUDA loads at their first use, workspaces of matrix products
# and convolutions, and what the allocator loses to rounding and fragmentation.
CUDA_RESERVE = 1 << 30
_PASS_INPUTS = 4  # examples read by the passes of the sampler: three predictions at once, and the one without the video


@dataclass(frozen=True)
class Stage:
    """One stage of a run, in bytes: what stays all through it, by what it is; and the peak of everything else."""

    name: str
    resident: Mapping[str, int]
    transient: int

    @property
    def peak(self) -> int:
        """Peak memory of the stage."""
        return sum(self.resident.values()) + self.transient


@dataclass(frozen=True)
class Needs:
    """The stages of a run in order, and what can be on the device or on the host."""

    tokens: Tokens  # of a training clip
    text_tokens: int
    stages: tuple[Stage, ...]
    step: StepBytes
    reserve: int
    examples: int  # bytes of all training examples, on the device if there is room beside the peak, else on the host
    host_bytes: int = 0  # blocks that are offloaded to the host

    @property
    def peak(self) -> int:
        """Peak memory of the run, with the reserve, without `examples`."""
        return max(stage.peak for stage in self.stages) + self.reserve


def training_tokens(mode: Mode, request: TrainRequest) -> Tokens:
    """The shape of every training example."""
    frames = frame_count(request.clip_seconds)
    video_format = None
    if mode.video:
        width, height = frame_size(request.resolution, request.aspect_ratio)
        video_format = VideoFormat(request.number_of_frames, request.frame_rate, width, height)
    return Tokens(frames, frames if mode.reference else 0, mode.kept, video_format)


def preview_tokens(spec: PreviewSpec, *, one_way: bool = False) -> Tokens:
    """The shape of a preview; a short source or video makes it shorter."""
    frames = frame_count(spec.seconds)
    return Tokens(frames, frames if spec.reference else 0, spec.regenerate is not None, spec.video_format, one_way)


def preview_guidance(base: Base | BaseShape, request: TrainRequest) -> Guidance:
    """How previews are guided: as the request says, else as suits the base."""
    metadata = base.metadata if isinstance(base, BaseShape) else base.checkpoint.metadata
    return Guidance.of_base(metadata, distilled=base.distilled, stg=request.requested_stg_scale)


def preview_sampling(base: Base | BaseShape, request: TrainRequest) -> SamplingSettings:
    """How previews are sampled."""
    steps = DISTILLED_STEPS if base.distilled else PREVIEW_STEPS
    return SamplingSettings(steps, preview_guidance(base, request), distilled=base.distilled)


def preview_lora_bytes(settings: RunSettings, *, video: bool) -> dict[str, int]:
    """Device memory of the LoRAs that previews are rendered with, in float32; none without such LoRAs."""
    texts = [*settings.preview_lora, *([settings.distill_lora] if settings.distill_lora else [])]
    kinds = KINDS if video else AUDIO_KINDS
    loras = [open_lora(Path(parse_lora(text)[0])) for text in texts]
    layers = [one for lora in loras for name, one in lora.layers.items() if layer_kind(name) in kinds]
    return {"LoRAs of the previews": 4 * sum(layer.parameters for layer in layers)} if layers else {}


def training_step(mode: Mode, request: TrainRequest, settings: RunSettings, members: int = 1) -> Step:
    """What the cost of every training step depends on; with the members of a sweep, while all of them train."""
    tokens = replace(training_tokens(mode, request), one_way=settings.one_way_video)
    return Step(mode.lora_targets, request.rank, tokens, settings.batch_size, settings.policy, members)


def count_needs(
    shape: BaseShape,
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    device: torch.device,
    clips: int = 1,
    captions: int | None = None,
    members: int = 1,
) -> Needs:
    """What a run needs on a device, which takes precedence over that of the settings.

    `captions`: distinct ones among the clips, which share their text context; by default as many as clips.
    """
    kind, dtype, video, one_way = device.type, compute_dtype(device), mode.video, settings.one_way_video
    what = training_step(mode, request, settings, members)
    tokens = what.tokens
    previews = [preview_tokens(spec, one_way=one_way) for spec in mode.previews(request)]

    def kv_bytes(tokens: Tokens) -> int:
        return video_kv_bytes(shape.transformer_config, tokens.video, dtype) if one_way else 0

    step = step_bytes(shape, what, kind)
    guidance = preview_guidance(shape, request)
    # Previews have no backward pass.
    policy = replace(what.policy, gradient_checkpointing=False, checkpointed_blocks=0, offloaded=False)
    evaluation = [members * preview_bytes(shape, tokens, kind, None, policy)]  # at most: they share the text
    for preview in previews:
        evaluation += [preview_bytes(shape, preview, kind, guidance, policy), decoding(shape, preview.audio).bytes]

    exact = {"exact adapters": step.adapters}
    beside = preview_lora_bytes(settings, video=tokens.joint)
    offloaded = shape.offloaded_bytes(dtype, video=tokens.joint, one_way=one_way, policy=what.policy)
    codec = {"audio codec and vocoder": shape.codec_bytes()}
    encoders = codec | ({"video encoder": shape.video_encoder_bytes(dtype)} if video else {})
    training = {
        **codec,
        "transformer": shape.transformer_bytes(dtype, video=tokens.joint, one_way=one_way, policy=what.policy)
        + (0 if kind == "cuda" else offloaded),
        "adapters, gradients and moments": step.resident - step.example,
        "examples of a step": step.example * what.batch_size,
    }
    if settings.preserve:
        training["foreign captions"] = len(FOREIGN_CAPTIONS) * shape.context_bytes(dtype, video=tokens.joint)
        training["adapters set aside"] = step.adapters
    caching: list[Stage] = []
    if one_way:
        counts = [video_caching(shape, one, kind) for one in (tokens, *previews)]
        resident = {name: training[name] for name in (*codec, "transformer")}
        block = {"video stream, one block at a time": counts[0][0]}
        caching.append(Stage("caching the videos", resident | block, max(work.bytes for _, work in counts)))
    inputs: dict[str, int] = {}
    captured_step: dict[str, int] = {}
    captured_passes: dict[str, int] = {}
    if settings.cuda_graph:
        # Captured computations have inputs of their own, and keep their workspace: passes of previews while a step is
        # computed, and the other way round. The samples of a pass share one video.
        inputs["inputs of a step"] = step.example * what.batch_size
        if previews:
            inputs["inputs of passes"] = _PASS_INPUTS * (step.example - kv_bytes(tokens)) + max(map(kv_bytes, previews))
            captured_passes["captured passes"] = max(
                preview_bytes(shape, preview, kind, guidance, policy) for preview in previews
            )
        captured_step["captured step"] = step.peak - step.resident
    stages = (
        Stage("encoding the clips", encoders, max(encoding(shape, one, kind).bytes for one in (tokens, *previews))),
        Stage("encoding the texts", encoders, text_encoding(shape, kind, video=video).bytes),
        *caching,
        Stage("training", training | inputs | captured_passes, step.peak - step.resident),
        Stage("validation", training | inputs | captured_step | exact | beside, max(evaluation)),
    )
    context = shape.context_bytes(dtype, video=tokens.joint)
    examples = clips * (step.example - context) + (clips if captions is None else captions) * context
    examples += sum(map(kv_bytes, previews))
    reserve = CUDA_RESERVE if kind == "cuda" else 0
    host_bytes = offloaded if kind == "cuda" else 0
    return Needs(tokens, shape.context_tokens, stages, step, reserve, examples, host_bytes)
