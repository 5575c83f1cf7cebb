"""Using a trained LoRA: from words to a sound file, by the function that makes the previews."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sonolora.data.cache import Cache, default_cache_folder
from sonolora.data.encode import PreviewRequest, encode_texts, preview_item
from sonolora.ltx.audio_codec import load_audio_codec
from sonolora.ltx.base import find_base
from sonolora.ltx.lora import apply_lora, load_lora
from sonolora.ltx.transformer import load_transformer
from sonolora.modes.request import NEGATIVE_PROMPT
from sonolora.runs.progress import Progress
from sonolora.runs.settings import compute_dtype, resolve_device
from sonolora.sampling.preview import render, write_preview
from sonolora.sampling.sampler import SamplingSettings


@dataclass(frozen=True)
class GenerateRequest:
    """What to generate; without a LoRA the base alone is heard."""

    prompt: str
    seconds: float
    lora: Path | None = None
    scale: float = 1.0
    seed: int = 42
    negative_prompt: str = NEGATIVE_PROMPT
    base: str = "tiny"
    device: str = "auto"
    sampling: SamplingSettings = field(default_factory=SamplingSettings)


def generate(request: GenerateRequest, out: Path, progress: Progress) -> None:
    """Write `out` (.wav) and a picture beside it. Raises `SonoloraError` for a LoRA that does not fit."""
    device = resolve_device(request.device)
    dtype = compute_dtype(device)
    base = find_base(request.base)
    lora = load_lora(request.lora) if request.lora else None
    codec = load_audio_codec(base.checkpoint, device=device)
    preview = PreviewRequest(request.prompt, request.negative_prompt, request.seconds)
    texts = [request.prompt, request.negative_prompt]
    contexts = encode_texts(texts, base, Cache(default_cache_folder()), device, dtype)
    model = load_transformer(base.checkpoint, video=False, device=device, dtype=dtype)
    if lora is not None:
        apply_lora(model, lora, request.scale)
        trained_on = lora.metadata.get("base_fingerprint", base.fingerprint)
        if trained_on != base.fingerprint:
            progress.message(f"note: this LoRA was trained on another base ({lora.metadata.get('base', trained_on)})")
        trigger = lora.metadata.get("trigger_phrase", "")
        if trigger not in request.prompt:
            progress.message(f"note: this LoRA was trained with the trigger phrase {trigger!r}; the prompt lacks it")
    progress.phase("generating", request.sampling.steps)
    waveform = render(
        model,
        codec,
        preview_item(preview, codec, contexts),
        request.sampling,
        request.seed,
        device,
        progress.advance,
    )
    write_preview(out, waveform, request.prompt)
