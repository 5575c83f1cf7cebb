"""The networks of one base on one device, loaded on first use and kept for the next run.

In: a base and a device. Out: the codec, the text encoder and the transformer. Results with reused networks are
bit-identical to those with new ones: a run leaves no state in them.
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
    """Keeps one transformer in one configuration: two may not fit in the memory of a card that fits one.

    The text encoder is not kept: it is read each time texts are encoded.
    """

    def __init__(self, base: Base, device: torch.device) -> None:
        self.base = base
        self.device = device
        self.dtype = compute_dtype(device)
        self._transformer: Transformer | None = None
        self._configuration: tuple[bool, bool, WeightPolicy] | None = None

    @classmethod
    def of(cls, settings: RunSettings) -> Networks:
        """Those of the settings' base on their device. Raises `SonoloraError` when one of them is not there."""
        return cls(find_base(settings.base), settings.place())

    @cached_property
    def codec(self) -> AudioCodec:
        """Encoder, decoder and vocoder."""
        return load_audio_codec(self.base.checkpoint, device=self.device)

    def text_encoder(self, *, video: bool) -> TextEncoder:
        """For both streams or for audio alone. On a GPU the transformer is dropped first, to make room."""
        if self.device.type != "cpu":
            self._transformer = None
        return load_text_encoder(
            self.base.checkpoint, self.base.text_encoder, video=video, device=self.device, dtype=self.dtype
        )

    @contextmanager
    def transformer(self, *, video: bool, one_way: bool = False, policy: WeightPolicy = PLAIN) -> Iterator[Transformer]:
        """The frozen transformer; adapters added to it are removed on exit, also after a failure.

        `video` and `one_way` as for `Transformer`.
        """
        configuration = video, one_way, policy
        if self._transformer is None or self._configuration != configuration:
            self._transformer = None
            self._transformer = load_transformer(
                self.base.checkpoint, video=video, one_way=one_way, device=self.device, dtype=self.dtype, policy=policy
            )
            self._configuration = configuration
        model = self._transformer
        try:
            yield model
        finally:
            remove_adapters(model)
