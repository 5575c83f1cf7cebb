"""The networks of a base as shapes alone: what each takes in memory, and each on the meta device to be run there.

In: a base, or LTX-2.3 as published when its files are not here. Out: bytes by the checkpoint's own header, and modules
whose tensors have the dtypes that loading gives them. No weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.models.gemma3 import Gemma3TextConfig

from sonolora.errors import CheckpointError
from sonolora.ltx.audio_codec import AudioCodec, build_log_mel, build_vae, build_vocoder
from sonolora.ltx.base import Base
from sonolora.ltx.checkpoint import TensorInfo
from sonolora.ltx.config import TransformerConfig
from sonolora.ltx.published import LTX23_CONFIG, LTX23_TEXT_STATES, PublishedTensor, needed, published_tensors
from sonolora.ltx.text import PUBLISHED_TOKENS, TextProjector, load_tokenizer, projector_file_name
from sonolora.ltx.transformer import PREFIX, Transformer
from sonolora.ltx.video_encoder import VideoEncoder

PUBLISHED_NAME = "ltx-2.3"
META = torch.device("meta")
# Of google/gemma-3-12b-it; everything else is as the architecture has it by default.
_GEMMA_12B = {
    "vocab_size": 262208,
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_hidden_layers": LTX23_TEXT_STATES - 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "sliding_window": 1024,
}
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class BaseShape:
    """A base without its weights. Two of the same fingerprint are equal."""

    name: str
    fingerprint: str
    config: Mapping[str, Any] = field(compare=False)  # the sections of the checkpoint's header
    metadata: Mapping[str, Any] = field(compare=False)  # whatever else the header says
    tensors: Mapping[str, TensorInfo | PublishedTensor] = field(compare=False)
    text_config: Any = field(compare=False)  # the text encoder's, of transformers
    text_places: int = field(compare=False)  # of a context

    @classmethod
    def of(cls, base: Base) -> BaseShape:
        """That of a base that is here. Raises `CheckpointError` when it does not hold together."""
        places = load_tokenizer(base.checkpoint, base.text_encoder).max_tokens
        sections = {name: base.checkpoint.section(name) for name in ("transformer", "audio_vae", "vocoder", "vae")}
        try:
            text = AutoConfig.from_pretrained(base.text_encoder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{base.text_encoder}: not a readable text encoder: {error}") from error
        checkpoint = base.checkpoint
        return cls(base.name, base.fingerprint, sections, checkpoint.metadata, checkpoint.tensors, text, places)

    @classmethod
    def published(cls) -> BaseShape:
        """LTX-2.3 with Gemma 3 12B, by the published table."""
        text = Gemma3TextConfig(**_GEMMA_12B)
        return cls(PUBLISHED_NAME, "published", LTX23_CONFIG, {}, published_tensors(), text, PUBLISHED_TOKENS)

    @cached_property
    def transformer_config(self) -> TransformerConfig:
        """The transformer's section of the header."""
        return TransformerConfig.from_header(self.config["transformer"])

    def transformer_bytes(self, dtype: torch.dtype, *, video: bool) -> int:
        """What the transformer holds: the tensors that a mode reads, float32 where the file has float32."""
        return self._bytes(dtype, video, lambda name: name.startswith(PREFIX) and "embeddings_connector" not in name)

    def projector_bytes(self, dtype: torch.dtype, *, video: bool) -> int:
        """What the text's projections and connectors hold."""
        return self._bytes(
            dtype, video, lambda name: "embeddings_connector" in name or name.startswith("text_embedding_projection.")
        )

    def codec_bytes(self) -> int:
        """What the audio codec and the vocoder hold, always in float32."""
        return self._bytes(torch.float32, False, lambda name: name.startswith(("audio_vae.", "vocoder.")))

    def video_encoder_bytes(self, dtype: torch.dtype) -> int:
        """What the video encoder holds."""
        return self._bytes(dtype, True, lambda name: name.startswith("vae."))

    def text_encoder_bytes(self, dtype: torch.dtype) -> tuple[int, int]:
        """What the language model holds, and what is read into the host's memory for it: its eyes come along."""
        with META:
            whole = AutoModel.from_config(self.text_config, dtype=dtype)
        language_model = getattr(whole, "language_model", whole)
        return _size(language_model), _size(whole)

    def _bytes(self, dtype: torch.dtype, video: bool, belongs: Callable[[str], bool]) -> int:
        return sum(
            math.prod(self.tensors[name].shape) * self._dtype(name, dtype).itemsize
            for name in needed(self.tensors, video=video)
            if belongs(name)
        )

    def _dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        info = self.tensors.get(name)  # that it is missing is said when it is loaded
        return torch.float32 if info is not None and info.dtype == "F32" else dtype

    def transformer(self, layers: int, dtype: torch.dtype, *, video: bool) -> Transformer:
        """The first so many of its layers."""
        with META:
            model = Transformer(replace(self.transformer_config, layers=layers), video=video)
        return self._as_loaded(model, lambda name: PREFIX + name, dtype)

    @cached_property
    def codec(self) -> AudioCodec:
        """Encoder, decoder and vocoder."""
        with META:
            vae = build_vae(self.config["audio_vae"])
            vocoder = build_vocoder(self.config["vocoder"], vae)
        for module in (vae, vocoder):
            module.requires_grad_(False).eval()
        return AudioCodec(vae, vocoder, build_log_mel(self.config["audio_vae"], META))

    def video_encoder(self, dtype: torch.dtype) -> VideoEncoder:
        """The encoder of films."""
        with META:
            encoder = VideoEncoder(self.config["vae"])
        return self._as_loaded(encoder, encoder.file_name, dtype)

    def projector(self, stream: str, dtype: torch.dtype) -> TextProjector:
        """From the text encoder's hidden states to the context of a stream, "audio" or "video"."""
        config = self.transformer_config
        connector = config.audio_connector if stream == "audio" else config.video_connector
        width = self.tensors[projector_file_name(stream, "aggregate_embed.weight")].shape[1]
        with META:
            module = TextProjector(width // config.text_channels, config.text_channels, connector)
        return self._as_loaded(module, partial(projector_file_name, stream), dtype)

    def _as_loaded(self, module: _Module, file_name: Callable[[str], str], dtype: torch.dtype) -> _Module:
        """With the dtypes, frozen and in eval mode, as `load_module` leaves it."""
        state = {
            name: torch.empty(tensor.shape, dtype=self._dtype(file_name(name), dtype), device=META)
            for name, tensor in module.state_dict().items()
        }
        module.load_state_dict(state, strict=True, assign=True)
        return module.requires_grad_(False).eval()


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
