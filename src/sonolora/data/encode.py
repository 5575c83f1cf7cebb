"""Clips and captions through the networks, to what training and previews need of them.

In: fitted clips, preview prompts, a base. Out: `Prepared`. The codec and the text encoder are loaded only when the
cache lacks something, one after the other, and are gone when this returns.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolora.conditioning import Example
from sonolora.data.cache import Cache, content_key
from sonolora.data.clips import Clip
from sonolora.data.examples import Prepared, PreviewItem
from sonolora.ltx.audio_codec import AudioCodec
from sonolora.ltx.base import Base
from sonolora.ltx.text import load_text_encoder

Advance = Callable[[str], None]


def _unwatched(_: str) -> None: ...


@dataclass(frozen=True)
class PreviewRequest:
    """What a preview or `generate` is asked for."""

    prompt: str
    negative_prompt: str
    seconds: float


def prepare(
    clips: Sequence[Clip],
    previews: Sequence[PreviewRequest],
    base: Base,
    codec: AudioCodec,
    cache: Cache,
    device: torch.device,
    dtype: torch.dtype,
    advance: Advance = _unwatched,
) -> Prepared:
    """Encode everything that a run needs; `advance` is called once a clip and once a distinct text."""
    latents = []
    for clip in clips:
        latents.append(_latents(clip, base, codec, cache, device))
        advance(clip.name)
    prompts = [text for preview in previews for text in (preview.prompt, preview.negative_prompt)]
    contexts = encode_texts([*(clip.caption for clip in clips), *prompts], base, cache, device, dtype, advance)
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(content_key("clip", clip.audio.samples.tobytes(), clip.caption).encode())
    return Prepared(
        examples=tuple(
            Example(latents_BTC, contexts[clip.caption]) for clip, latents_BTC in zip(clips, latents, strict=True)
        ),
        names=tuple(clip.name for clip in clips),
        previews=tuple(preview_item(preview, codec, contexts) for preview in previews),
        digest=digest.hexdigest()[:16],
    )


def preview_item(preview: PreviewRequest, codec: AudioCodec, contexts: dict[str, Tensor]) -> PreviewItem:
    """What the sampler needs of one preview. `contexts` holds its prompts."""
    frames = codec.frames(preview.seconds)
    return PreviewItem(
        preview.prompt,
        preview.seconds,
        Example(torch.zeros(1, frames, codec.channels), contexts[preview.prompt]),
        contexts[preview.negative_prompt],
    )


def encode_texts(
    texts: Sequence[str],
    base: Base,
    cache: Cache,
    device: torch.device,
    dtype: torch.dtype,
    advance: Advance = _unwatched,
) -> dict[str, Tensor]:
    """Context (1, S, D) of every distinct text; equal texts share one tensor."""
    load = functools.cache(
        lambda: load_text_encoder(base.checkpoint, base.text_encoder, video=False, device=device, dtype=dtype)
    )
    contexts: dict[str, Tensor] = {}
    for text in dict.fromkeys(texts):

        def make(text: str = text) -> dict[str, Tensor]:
            return {"audio": load().encode([text])[0].audio[None]}

        contexts[text] = cache.get(content_key("text context", base.fingerprint, str(dtype), text), make)["audio"]
        advance(text)
    return contexts


def _latents(clip: Clip, base: Base, codec: AudioCodec, cache: Cache, device: torch.device) -> Tensor:
    samples = clip.audio.samples
    key = content_key("audio latents", base.fingerprint, samples.tobytes())
    return cache.get(key, lambda: {"latents": codec.encode(torch.from_numpy(samples)[None].to(device))})["latents"]
