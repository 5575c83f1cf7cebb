"""The networks of a base as shapes: their memory, and modules on the meta device.

In: a base, or LTX-2.3 as published when its files are not on this machine. Out: bytes from the checkpoint's header, and
modules whose tensors have the dtypes that loading gives them. No weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from sonolora.core.errors import InputError, SonoloraError
from sonolora.core.tensor_file import TensorInfo
from sonolora.ltx.memory.block_offload import DEVICE_SLOTS
from sonolora.ltx.memory.weight_policy import PLAIN, TABLE, WeightPolicy, place_weight
from sonolora.ltx.model.transformer import PREFIX, Transformer, join_layers
from sonolora.ltx.text.text_encoder import PUBLISHED_TOKENS, TextEncoder, Tokenizer, load_tokenizer
from sonolora.ltx.text.text_projector import empty_projectors
from sonolora.ltx.weights.base import Base, find_base
from sonolora.ltx.weights.checkpoint import MetaCheckpoint
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG, LTX23_TEXT_STATES
from sonolora.ltx.weights.stored_tensor import PUBLISHED_PRECISION, loaded_dtype, stored_precision
from sonolora.ltx.weights.tensor_table import (
    PublishedTensor,
    needed,
    published_tensors,
)
from sonolora.ltx.weights.transformer_config import TransformerConfig

if TYPE_CHECKING:
    from transformers.models.gemma3 import Gemma3TextConfig

    from sonolora.ltx.codec.audio_codec import AudioCodec
    from sonolora.ltx.codec.video_encoder import VideoEncoder

PUBLISHED_NAME = "ltx-2.3"
META = torch.device("meta")
# Of google/gemma-3-12b-it; everything else is the architecture's default.
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
    """A base without its weights. Equal if the fingerprints are."""

    name: str
    fingerprint: str
    config: Mapping[str, Any] = field(compare=False)  # the sections of the checkpoint's header
    metadata: Mapping[str, Any] = field(compare=False)  # of the header, besides the config
    tensors: Mapping[str, TensorInfo | PublishedTensor] = field(compare=False)
    text_config: Gemma3TextConfig = field(compare=False)
    context_tokens: int = field(compare=False)  # text tokens of a context
    distilled: bool = field(default=False, compare=False)  # sampled by the schedule of distilled models

    @classmethod
    def of(cls, base: Base) -> BaseShape:
        """Of a base on this machine. Raises `CheckpointError` when its parts do not fit together."""
        from sonolora.ltx.text.language_model import read_text_config  # takes a second to import

        context_tokens = load_tokenizer(base.checkpoint, base.text_encoder).max_tokens
        sections = {name: base.checkpoint.section(name) for name in ("transformer", "audio_vae", "vocoder", "vae")}
        checkpoint, text = base.checkpoint, read_text_config(base.text_encoder)
        return cls(
            base.name,
            base.fingerprint,
            sections,
            checkpoint.metadata,
            checkpoint.tensors,
            text,
            context_tokens,
            base.distilled,
        )

    @classmethod
    def published(cls) -> BaseShape:
        """LTX-2.3 with Gemma 3 12B, from the published table."""
        from transformers.models.gemma3 import Gemma3TextConfig

        text = Gemma3TextConfig(**_GEMMA_12B)
        return cls(PUBLISHED_NAME, "published", LTX23_CONFIG, {}, published_tensors(), text, PUBLISHED_TOKENS)

    @classmethod
    def find(cls, name: str) -> BaseShape:
        """By a base's name; `ltx-2.3` need not be on this machine. Raises `SonoloraError` for any other that is not."""
        try:
            base = find_base(name)
        except SonoloraError:
            if name != PUBLISHED_NAME:
                raise
            return cls.published()
        return cls.of(base)

    def with_layers(self, layers: int) -> BaseShape:
        """The same with its first layers alone. Raises `InputError` when it does not have as many."""
        all_layers = self.transformer_config.layers
        if not 0 < layers <= all_layers:
            raise InputError.of("layers", f"{self.name} has {all_layers} layers, not {layers}")
        if layers == all_layers:
            return self
        config = {**self.config, "transformer": {**self.config["transformer"], "num_layers": layers}}
        name = f"{self.name} with {layers} of its {all_layers} layers"
        return replace(self, name=name, fingerprint=f"{self.fingerprint}-{layers}", config=config)

    @property
    def precision(self) -> str:
        """How the weights of the transformer are stored, in words."""
        stored = {name: info for name, info in self.tensors.items() if isinstance(info, TensorInfo)}
        return stored_precision(stored) if stored else PUBLISHED_PRECISION

    @cached_property
    def transformer_config(self) -> TransformerConfig:
        """The transformer's section of the header."""
        return TransformerConfig.from_header(self.config["transformer"])

    def transformer_bytes(
        self, dtype: torch.dtype, *, video: bool, one_way: bool = False, policy: WeightPolicy = PLAIN
    ) -> int:
        """Device memory of the frozen `Transformer` in this form."""
        outer, block, tables = _transformer_parts(self, dtype, video, one_way, policy)
        layers = self.transformer_config.layers
        return outer + tables * layers + block * (DEVICE_SLOTS if policy.offloaded else layers)

    def offloaded_bytes(
        self, dtype: torch.dtype, *, video: bool, one_way: bool = False, policy: WeightPolicy = PLAIN
    ) -> int:
        """Host memory of its offloaded blocks."""
        _, block, _ = _transformer_parts(self, dtype, video, one_way, policy)
        return block * self.transformer_config.layers if policy.offloaded else 0

    def context_bytes(self, dtype: torch.dtype, *, video: bool) -> int:
        """Memory of a text's context, for the audio stream and with `video` for both."""
        config = self.transformer_config
        width = config.audio.context_dim + (config.video.context_dim if video else 0)
        return self.context_tokens * width * dtype.itemsize

    def codec_bytes(self) -> int:
        """Memory of the audio codec and the vocoder, always in float32."""
        return self._bytes(torch.float32, False, lambda name: name.startswith(("audio_vae.", "vocoder.")))

    def video_encoder_bytes(self, dtype: torch.dtype) -> int:
        """Memory of the video encoder."""
        return self._bytes(dtype, True, lambda name: name.startswith("vae."))

    @property
    def language_model_bytes(self) -> int:
        """Bytes of the text encoder's language model in bfloat16, which is read layer by layer."""
        from sonolora.ltx.text.language_model import tensor_shapes

        return sum(2 * math.prod(size) for size in tensor_shapes(self.text_config).values())

    def _bytes(self, dtype: torch.dtype, video: bool, belongs: Callable[[str], bool]) -> int:
        return sum(
            math.prod(self.tensors[name].shape) * self._dtype(name, dtype).itemsize
            for name in needed(self.tensors, video=video)
            if belongs(name)
        )

    def _dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        info = self.tensors.get(name)  # a missing one is an error when the base is loaded
        if isinstance(info, TensorInfo):
            return loaded_dtype(info, dtype)
        return torch.float32 if info is not None and info.dtype == "F32" else dtype

    def transformer(
        self, layers: int, dtype: torch.dtype, *, video: bool, one_way: bool = False, policy: WeightPolicy = PLAIN
    ) -> Transformer:
        """Its first layers, none of them offloaded."""
        with META:
            model = Transformer(replace(self.transformer_config, layers=layers), video=video, one_way=one_way)
        resident = replace(policy, offloaded=False)
        model.checkpointed_blocks = policy.recomputed(layers)
        model = self._as_loaded(
            model, lambda name: PREFIX + name, dtype, lambda name, tensor: place_weight(model, name, tensor, resident)
        )
        join_layers(model)
        return model

    @cached_property
    def codec(self) -> AudioCodec:
        """Encoder, decoder and vocoder."""
        from sonolora.ltx.codec.audio_codec import AudioCodec, build_log_mel, build_vae, build_vocoder  # takes seconds

        with META:
            vae = build_vae(self.config["audio_vae"])
            vocoder = build_vocoder(self.config["vocoder"], vae)
        for module in (vae, vocoder):
            module.requires_grad_(False).eval()
        return AudioCodec(vae, vocoder, build_log_mel(self.config["audio_vae"], META))

    def video_encoder(self, dtype: torch.dtype) -> VideoEncoder:
        """The video encoder."""
        from sonolora.ltx.codec.video_encoder import VideoEncoder

        with META:
            encoder = VideoEncoder(self.config["vae"])
        return self._as_loaded(encoder, encoder.checkpoint_name, dtype)

    def text_encoder(self, tokenizer: Tokenizer, dtype: torch.dtype, *, video: bool) -> TextEncoder:
        """The text encoder, whose parts are made on meta where they would be read."""
        from sonolora.ltx.text.language_model import LanguageModel, tensor_shapes

        gemma = {name: TensorInfo("BF16", size, 0, 0) for name, size in tensor_shapes(self.text_config).items()}
        files = dict.fromkeys(gemma, MetaCheckpoint(Path(self.name), gemma, {}))
        own = {
            name: info if isinstance(info, TensorInfo) else TensorInfo(info.dtype, tuple(info.shape), 0, 0)
            for name, info in self.tensors.items()
        }
        checkpoint = MetaCheckpoint(Path(self.name), own, {"config": self.config})
        language_model = LanguageModel(self.text_config, files, "", device=META, dtype=dtype, host=META)
        return TextEncoder(tokenizer, language_model, checkpoint, empty_projectors(checkpoint, video=video))

    def _as_loaded(
        self,
        module: _Module,
        file_name: Callable[[str], str],
        dtype: torch.dtype,
        place_weight: Callable[[str, Tensor], Tensor | None] = lambda _, tensor: tensor,
    ) -> _Module:
        """With the dtypes, frozen and in eval mode, as `load_module` leaves a module."""
        state = {}
        for name, tensor in module.state_dict().items():
            read = torch.empty(tensor.shape, dtype=self._dtype(file_name(name), dtype), device=META)
            if (placed := place_weight(name, read)) is not None:
                state[name] = placed
        module.load_state_dict(state, strict=True, assign=True)
        return module.requires_grad_(False).eval()


@lru_cache
def _transformer_parts(
    shape: BaseShape, dtype: torch.dtype, video: bool, one_way: bool, policy: WeightPolicy
) -> tuple[int, int, int]:
    """Bytes outside the blocks, of one block (all are alike), and of its tables, which are never offloaded."""
    model = shape.transformer(1, dtype, video=video, one_way=one_way, policy=policy)
    block = _size(model.transformer_blocks)
    tables = sum(one.nbytes for name, one in model.transformer_blocks.named_parameters() if TABLE in name)
    return _size(model) - block, block - tables, tables


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
