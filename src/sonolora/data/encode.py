"""Encodes clips and texts: latents and text contexts for training and sampling.

In: fitted clips, conditioning inputs, a base. Out: `Prepared`, or `PreviewItem`s. Networks are loaded when the cache
first misses, and freed when their stage is over. Training clips and the inputs of inference go through the same
function, so that kept sound is encoded alike on both sides.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sonolora.conditioning import Example, Video, with_text
from sonolora.core.frames import FRAMES_PER_LATENT, PIXELS_PER_LATENT, frame_count, kept_frames
from sonolora.data.clips import Clip
from sonolora.data.conditioning_inputs import ConditioningInput, muted
from sonolora.data.encoding_cache import Cache, content_hash, content_key
from sonolora.data.prepared import Prepared, PreviewItem
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.ltx.codec.video_encoder import (
    VideoEncoder,
    load_video_encoder,
    video_token_midpoints,
)
from sonolora.ltx.text.text_encoder import TextContext, TextEncoder, load_text_encoder
from sonolora.ltx.weights.base import Base
from sonolora.media.audio import Waveform
from sonolora.modes.negative_prompts import resolve_negative_prompt


@dataclass(frozen=True)
class Encoder:
    """The networks that encode data, behind the cache. `video`: whether videos and their texts are encoded, too.

    `text_encoder` returns the text encoder to use, when one is needed; by default that of the base is opened.
    """

    base: Base
    codec: AudioCodec
    cache: Cache
    device: torch.device
    dtype: torch.dtype
    video: bool
    text_encoder: Callable[[], TextEncoder] | None = None

    def prepare(
        self,
        clips: Iterable[Clip],
        given: Sequence[tuple[ConditioningInput, str]],
        advance: Callable[[str], None],
        other_texts: Sequence[str] = (),
    ) -> tuple[Prepared, list[Clip]]:
        """Encode training clips as they come, and the inputs of previews with their negative prompts.

        `other_texts` go to the cache with the others, so that the text encoder is read once for all.

        Also returns the clips without their frames, which would not fit in memory together.
        """
        given = [(one, resolve_negative_prompt(negative)) for one, negative in given]
        encoded, light, digest = [], [], hashlib.sha256()
        for clip in clips:
            encoded.append(self._encode(clip, learn=True))
            digest.update(_digest(clip).encode())
            light.append(replace(clip, frames=None))
        seen = [self._encode(one.clip, learn=False) for one, _ in given]
        texts = [clip.caption for clip in light]
        texts += other_texts
        for one, negative in given:
            texts += [one.clip.caption, negative]
        contexts = self.encode_texts(texts, advance)
        return (
            Prepared(
                examples=tuple(
                    with_text(example, contexts[clip.caption].audio, contexts[clip.caption].video)
                    for example, clip in zip(encoded, light, strict=True)
                ),
                names=tuple(clip.name for clip in light),
                previews=tuple(
                    self._item(one, example, contexts[one.clip.caption], contexts[negative])
                    for (one, negative), example in zip(given, seen, strict=True)
                ),
                digest=digest.hexdigest()[:16],
            ),
            light,
        )

    def prepare_given(
        self, given: ConditioningInput, contexts: Mapping[str, TextContext], negative_prompt: str
    ) -> PreviewItem:
        """What the sampler needs to generate one sound; `contexts` are those of `encode_texts`."""
        example = self._encode(given.clip, learn=False)
        return self._item(given, example, contexts[given.clip.caption], contexts[negative_prompt])

    def encode_texts(self, texts: Sequence[str], advance: Callable[[str], None]) -> dict[str, TextContext]:
        """The context of every distinct text; equal texts share their tensors.

        All cache misses are encoded in one call, which reads the text encoder once and reports to `advance`.
        """
        kind = "text contexts, both streams" if self.video else "text context"
        keys = {text: content_key(kind, self.base.fingerprint, str(self.dtype), text) for text in texts}
        encoded = {text: tensors for text, key in keys.items() if (tensors := self.cache.find(key)) is not None}
        if missing := [text for text in keys if text not in encoded]:
            encoder = (self.text_encoder or self._load_text_encoder)()
            for text, context in zip(missing, encoder.encode(missing, advance), strict=True):
                both = {"audio": context.audio, "video": context.video}
                tensors = {stream: tensor[None] for stream, tensor in both.items() if tensor is not None}
                encoded[text] = self.cache.put(keys[text], tensors)
        return {text: TextContext(encoded[text]["audio"], encoded[text].get("video")) for text in keys}

    def _load_text_encoder(self) -> TextEncoder:
        return load_text_encoder(
            self.base.checkpoint, self.base.text_encoder, video=self.video, device=self.device, dtype=self.dtype
        )

    def _encode(self, clip: Clip, *, learn: bool) -> Example:
        """An example without its text. Without `learn` the latents of the target itself are not needed.

        Kept frames are encoded from the sound with silence in the regenerated spans, in training as at inference: the
        codec is causal, and a frame after a span would otherwise carry traces of its content.
        """
        frames = frame_count(clip.audio.seconds)
        latents = self._latents(clip.audio) if learn else torch.zeros(1, frames, self.codec.channels)
        keep = None
        if clip.regenerate is not None:
            keep = torch.tensor([kept_frames(clip.regenerate, frames)])
            latents = torch.where(keep[..., None], self._latents(muted(clip.audio, clip.regenerate)), latents)
        return Example(
            latents,
            torch.zeros(1, 0, 0),
            keep,
            reference_BRC=None if clip.reference is None else self._latents(clip.reference),
            video=None if clip.frames is None else self._video(clip),
        )

    def _latents(self, sound: Waveform) -> Tensor:
        def make() -> dict[str, Tensor]:
            return {"latents": self.codec.encode(torch.from_numpy(sound.samples)[None].to(self.device))}

        return self.cache.get(content_key("audio latents", self.base.fingerprint, sound.samples.tobytes()), make)[
            "latents"
        ]

    def _video(self, clip: Clip) -> Video:
        assert clip.frames is not None
        frames, height, width, _ = clip.frames.shape

        def make() -> dict[str, Tensor]:
            pixels = torch.from_numpy(np.ascontiguousarray(clip.frames)).to(self.device)
            frames_BCFHW = pixels.permute(3, 0, 1, 2)[None].to(self.dtype) / 127.5 - 1
            return {"latents": self._video_encoder.encode(frames_BCFHW)}

        shape = str(clip.frames.shape)  # without it all black videos of one size in bytes were the same
        key = content_key("video latents", self.base.fingerprint, str(self.dtype), shape, clip.frames.tobytes())
        latents_BCFHW = self.cache.get(key, make)["latents"]
        size = (frames - 1) // FRAMES_PER_LATENT + 1, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
        positions = video_token_midpoints(*size, clip.frame_rate)
        return Video(latents_BCFHW.flatten(2).transpose(1, 2).contiguous(), positions[None], torch.zeros(1, 0, 0))

    @functools.cached_property
    def _video_encoder(self) -> VideoEncoder:
        return load_video_encoder(self.base.checkpoint, device=self.device, dtype=self.dtype)

    def _item(
        self, given: ConditioningInput, example: Example, context: TextContext, negative: TextContext
    ) -> PreviewItem:
        return PreviewItem(
            given.clip.caption,
            given.seconds,
            with_text(example, context.audio, context.video),
            negative.audio,
            given.clip.regenerate or (),
            given.gain,
            None if given.kept is None else torch.from_numpy(given.kept.samples),
        )


def _digest(clip: Clip) -> str:
    return content_hash(
        "2 clip",
        clip.caption,
        clip.audio.samples.tobytes(),
        b"" if clip.reference is None else clip.reference.samples.tobytes(),
        repr(clip.regenerate),
        b"" if clip.frames is None else clip.frames.tobytes(),
    )
