"""The networks of one base on one device, loaded when they are first needed and kept for the next run.

In: a base and a device. Out: the codec, the text encoder and the transformer. A run that is given networks which were
used before has the result, byte for byte, that it has with new ones: nothing of a run stays in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from sonolora.core.devices import compute_dtype
from sonolora.ltx.codec.audio_codec import AudioCodec, load_audio_codec
from sonolora.ltx.lora.adapters import remove_adapters
from sonolora.ltx.memory.weight_policy import PLAIN, WeightPolicy
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.text.text_encoder import TextEncoder, load_text_encoder
from sonolora.ltx.weights.base import Base, find_base
from sonolora.planning.run_settings import RunSettings


class Networks:
    """One transformer is kept, of one form: two would not fit on the cards that one fits on.

    Of the text encoder nothing is kept: it is read when texts are encoded.
    """

    def __init__(self, base: Base, device: torch.device) -> None:
        self.base = base
        self.device = device
        self.dtype = compute_dtype(device)
        self._transformer: Transformer | None = None
        self._form: tuple[bool, bool, WeightPolicy] | None = None

    @classmethod
    def of(cls, settings: RunSettings) -> Networks:
        """Those of the settings' base on their device. Raises `SonoloraError` when one of them is not there."""
        return cls(find_base(settings.base), settings.place())

    @cached_property
    def codec(self) -> AudioCodec:
        """Encoder, decoder and vocoder."""
        return load_audio_codec(self.base.checkpoint, device=self.device)

    def text_encoder(self, *, video: bool) -> TextEncoder:
        """For both streams or for audio alone. On a card the transformer makes room for it."""
        if self.device.type != "cpu":
            self._transformer = None
        return load_text_encoder(
            self.base.checkpoint, self.base.text_encoder, video=video, device=self.device, dtype=self.dtype
        )

    @contextmanager
    def transformer(self, *, video: bool, one_way: bool = False, policy: WeightPolicy = PLAIN) -> Iterator[Transformer]:
        """The frozen transformer, to be given adapters: they are taken off at the end, also after a failure.

        With `one_way` it is the half of `video`, see `Transformer`.
        """
        form = video, one_way, policy
        if self._transformer is None or self._form != form:
            self._transformer = None
            self._transformer = load_transformer(
                self.base.checkpoint, video=video, one_way=one_way, device=self.device, dtype=self.dtype, policy=policy
            )
            self._form = form
        model = self._transformer
        try:
            yield model
        finally:
            remove_adapters(model)
