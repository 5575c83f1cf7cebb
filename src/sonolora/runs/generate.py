"""Using a trained LoRA, in all six modes, by the function that makes the previews.

In: a mode, a request body, a LoRA. Out: a sound file and its picture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonolora.core.errors import InputError
from sonolora.core.progress import Progress
from sonolora.data.conditioning_inputs import load_conditioning_input
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache, default_cache_folder
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.lora.adapters import apply_lora
from sonolora.ltx.lora.lora_file import LoRAFile, open_lora
from sonolora.ltx.memory.quantised import FULL
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.modes.mode import Mode
from sonolora.modes.request import parse
from sonolora.planning.run_settings import JOINT, RunSettings, compute_dtype, resolve_device
from sonolora.runs.cached_video import with_cached_videos
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.preview import render, write_preview
from sonolora.sampling.sampler import SamplingSettings

_EQUAL_SECONDS = 0.02  # by which a given clip may miss its length: encoder padding


@dataclass(frozen=True)
class GenerateSettings:
    """How to generate; without a LoRA the base alone is heard."""

    lora: Path | None = None
    scale: float = 1.0
    seed: int = 42
    base: str = "tiny"
    device: str = "auto"
    steps: int = 30
    stg_scale: float | None = None  # None: as the base wants it, as with
    cfg_scale: float | None = None
    v2a_video: str | None = None  # None: as the LoRA was trained
    weights: str = FULL  # of the base
    stream_blocks: bool = False


def generate(mode: Mode, body: Mapping[str, Any], settings: GenerateSettings, out: Path, progress: Progress) -> None:
    """Write `out` (.wav) and a picture beside it. Fields that `body` lacks follow the LoRA's metadata.

    Raises `InputError` for something given that cannot be used, `SonoloraError` for a LoRA that does not fit.
    """
    device = resolve_device(settings.device)
    dtype = compute_dtype(device)
    base = find_base(settings.base)
    lora = open_lora(settings.lora) if settings.lora else None
    said = lora.metadata if lora is not None and lora.metadata.get("mode") == mode.name else {}
    one_way = _one_way_video(mode, settings.v2a_video, said)
    policy = RunSettings(weights=settings.weights, stream_blocks=settings.stream_blocks).policy
    spec = parse(mode.generation, {**said, **body}).spec()
    codec = load_audio_codec(base.checkpoint, device=device)
    with tempfile.TemporaryDirectory() as scratch:
        given = load_conditioning_input(spec, codec.sample_rate, codec.output_sample_rate, Path(scratch))
    if max((end for _, end in spec.regenerate or ()), default=0.0) > given.seconds + _EQUAL_SECONDS:
        progress.warning(f"{spec.field} lasts {given.seconds:.2f} s, and the time_ranges end there, too")
    progress.phase("encoding what is given", None)
    item = Encoder(
        base, codec, Cache(default_cache_folder(), warn=progress.warning), device, dtype, mode.video
    ).prepare_one(given, spec.negative_prompt, progress.advance)
    if one_way:
        both = [item.example, item.negative]
        example, negative = with_cached_videos(both, base.checkpoint, device=device, dtype=dtype, place=device)
        item = replace(item, example=example, negative=negative)
    model = load_transformer(
        base.checkpoint, video=mode.video and not one_way, one_way=one_way, device=device, dtype=dtype, policy=policy
    )
    if lora is not None:
        adapters = apply_lora(model, lora, settings.scale)
        for note in _notes(lora, len(adapters), mode, base.fingerprint, settings.weights, spec.prompt):
            progress.message(f"note: {note}")
    guidance = Guidance.of_base(base.checkpoint.metadata, stg=settings.stg_scale, cfg=settings.cfg_scale)
    progress.phase("generating", settings.steps)
    waveform = render(
        model, codec, item, SamplingSettings(settings.steps, guidance), settings.seed, device, progress.advance
    )
    write_preview(out, waveform, spec.prompt)


def _one_way_video(mode: Mode, asked: str | None, said: Mapping[str, Any]) -> bool:
    """Whether the video does not hear the audio: as the LoRA was trained, and without one as asked."""
    trained = said.get("v2a_video", JOINT) if said else None
    settings = RunSettings(v2a_video=asked or trained or JOINT)
    settings.check_mode(mode)
    if asked is not None and trained is not None and asked != trained:
        raise InputError.of("v2a_video", f"this LoRA was trained with {trained}, and is used so; found {asked}")
    return settings.one_way_video


def _notes(lora: LoRAFile, used: int, mode: Mode, base_fingerprint: str, weights: str, prompt: str) -> list[str]:
    said = lora.metadata
    notes = []
    if used < len(lora.pairs):
        notes.append(
            f"{len(lora.pairs) - used} of this LoRA's {len(lora.pairs)} layers are of the video stream, left out"
        )
    if said.get("base_fingerprint", base_fingerprint) != base_fingerprint:
        notes.append(f"this LoRA was trained on another base ({said.get('base', 'unknown')})")
    if (trained := said.get("base_weights", FULL)) != weights:
        notes.append(f"this LoRA was trained with --weights {trained}, and is used here with {weights}")
    if said.get("mode", mode.name) != mode.name:
        notes.append(f"this LoRA was trained for {said['mode']}, and is used here for {mode.name}")
    if said.get("trigger_phrase", "") not in prompt:
        notes.append(f"this LoRA was trained with the trigger phrase {said['trigger_phrase']!r}; the prompt lacks it")
    return notes
