"""The networks of one base on one device, loaded when they are first needed and kept for the next run.

In: a base and a device. Out: the codec, the text encoder and the transformer. A run that is given networks which were
used before has the result, byte for byte, that it has with new ones: nothing of a run stays in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property

import torch

from sonolora.ltx.audio_codec import AudioCodec, load_audio_codec
from sonolora.ltx.base import Base
from sonolora.ltx.lora import remove_adapters
from sonolora.ltx.text import TextEncoder, load_text_encoder
from sonolora.ltx.transformer import Transformer, load_transformer
from sonolora.runs.settings import compute_dtype


class Networks:
    """One transformer is kept, audio alone or with video: two would not fit on the cards that one fits on.

    The text encoder, which is larger still, is kept where the device is the CPU; on a card it is let go.
    """

    def __init__(self, base: Base, device: torch.device) -> None:
        self.base = base
        self.device = device
        self.dtype = compute_dtype(device)
        self._transformer: Transformer | None = None
        self._text_encoder: TextEncoder | None = None

    @cached_property
    def codec(self) -> AudioCodec:
        """Encoder, decoder and vocoder."""
        return load_audio_codec(self.base.checkpoint, device=self.device)

    def text_encoder(self, *, video: bool) -> TextEncoder:
        """With the projector of the video stream or without."""
        if self.device.type != "cpu":
            with suppress(torch.OutOfMemoryError):
                return self._load_text_encoder(video)
            # Both at once were too much; one after the other may not be.
            self._transformer = None
            return self._load_text_encoder(video)
        if self._text_encoder is None or (video and self._text_encoder.video is None):
            self._text_encoder = None
            self._text_encoder = self._load_text_encoder(video)
        return self._text_encoder if video else replace(self._text_encoder, video=None)

    def _load_text_encoder(self, video: bool) -> TextEncoder:
        return load_text_encoder(
            self.base.checkpoint, self.base.text_encoder, video=video, device=self.device, dtype=self.dtype
        )

    @contextmanager
    def transformer(self, *, video: bool) -> Iterator[Transformer]:
        """The frozen transformer, to be given adapters: they are taken off at the end, also after a failure."""
        if self._transformer is None or self._transformer.has_video != video:
            self._transformer = None
            self._transformer = load_transformer(
                self.base.checkpoint, video=video, device=self.device, dtype=self.dtype
            )
        model = self._transformer
        try:
            yield model
        finally:
            remove_adapters(model)
