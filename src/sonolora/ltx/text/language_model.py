"""Gemma 3, from tokens to hidden states, with one of its layers in memory at a time.

In: a folder of Hugging Face's form, with the language model alone or inside the multimodal Gemma 3, in one file or in
several; prompts as token ids. Out: the hidden states of every prompt, state by state.

All of its weights have to be read in any case, and all prompts go through a layer while it is here. So the device holds
one layer (0.45 GB of the 23.5 GB of Gemma 3 12B) and what one prompt needs; prompts that wait do so on the host. Of
the table of embeddings only the rows of the tokens in use are read.

n tokens of a prompt, E width. The layers are those of transformers. Not yet run on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Gemma3TextConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer, Gemma3RMSNorm, Gemma3RotaryEmbedding

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.checkpoint import Checkpoint, let_go_after, read_tensors

_MODEL_TYPES = ("gemma3", "gemma3_text")
_EMBEDDINGS = "embed_tokens.weight"
_MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
_CPU, _META = torch.device("cpu"), torch.device("meta")


class LanguageModel:
    """An opened folder: where every tensor is, and none of them.

    `files` has the file of every name of `tensor_shapes` with `prefix` in front. Prompts wait on `host`.
    """

    def __init__(
        self,
        config: Gemma3TextConfig,
        files: Mapping[str, Checkpoint],
        prefix: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        host: torch.device = _CPU,
    ) -> None:
        config._attn_implementation = "sdpa"  # as the whole model of transformers has it
        self.config, self.files, self.prefix = config, files, prefix
        self.device, self.dtype, self.host = device, dtype, host
        # Layers of one type are alike. On meta, but for the time that they are at work.
        self._layers, self._norm = _empty_layers(config), _empty_norm(config)

    @property
    def state_count(self) -> int:
        """Hidden states of a token: its embedding, and one a layer."""
        return int(self.config.num_hidden_layers) + 1

    def states(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, Tensor]]:
        """For each state, for each prompt: number of the state, number of the prompt, values (1, n, E) on the device.

        The first state is the scaled embedding, the last one has gone through the final norm. Each prompt goes alone,
        unpadded: what becomes of it does not depend on the others. Raises `CheckpointError` when reading fails.
        """
        waiting = self._embedded(prompts)
        for which, state in enumerate(waiting):
            yield 0, which, state.to(self.device)
        surroundings = {count: self._surroundings(count) for count in {len(prompt) for prompt in prompts}}
        for layer in range(self.config.num_hidden_layers):
            for which, state in self._through(layer, waiting, surroundings):
                waiting[which] = state.to(self.host)
                yield layer + 1, which, state

    def _embedded(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        tokens = sorted({token for prompt in prompts for token in prompt})
        rows, name = self.config.vocab_size, self.prefix + _EMBEDDINGS
        if tokens[-1:] and tokens[-1] >= rows:
            raise CheckpointError(f"{self.files[name].path.parent}: token {tokens[-1]}, and {name} has {rows} rows")
        info = self.files[name].tensors[name]
        size = (info.end - info.start) // rows
        spans = {str(at): replace(info, shape=info.shape[1:], start=info.start + at * size) for at in tokens}
        spans = {at: replace(span, end=span.start + size) for at, span in spans.items()}
        table = replace(self.files[name], tensors=spans)
        scale = torch.tensor(self.config.hidden_size**0.5).to(self.dtype)
        found = {
            at: row.to(self.dtype) * scale for at, row in read_tensors(table, spans, device=self.host, dtype=self.dtype)
        }
        return [torch.stack([found[str(token)] for token in prompt])[None] for prompt in prompts]

    def _surroundings(self, count: int) -> dict[str, dict[str, Any]]:
        """What the layers of each type are given beside a prompt of so many tokens."""
        like = torch.empty(1, count, self.config.hidden_size, device=self.device, dtype=self.dtype)
        at = torch.arange(count, device=self.device)[None]
        rotary = Gemma3RotaryEmbedding(self.config)
        return {
            kind: {
                "position_embeddings": rotary(like, at, kind),
                "attention_mask": _MASKS[kind](
                    config=self.config, inputs_embeds=like, attention_mask=None, past_key_values=None
                ),
            }
            for kind in set(self.config.layer_types)
        }

    def _through(
        self, index: int, waiting: Sequence[Tensor], surroundings: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[tuple[int, Tensor]]:
        """The prompts, each after this layer; the layer is here until the last of them."""
        kind = self.config.layer_types[index]
        layer, last = self._layers[kind], index == self.config.num_hidden_layers - 1
        with self._loaded(layer, f"layers.{index}."), self._loaded(self._norm, "norm.") if last else nullcontext():
            for which, state in enumerate(waiting):
                state = layer(state.to(self.device), **surroundings[state.shape[1]][kind])
                yield which, self._norm(state) if last else state

    @contextmanager
    def _loaded(self, module: nn.Module, name: str) -> Iterator[None]:
        """Within it, the module has its tensors: those whose names in the files begin with `name`."""
        prefix = self.prefix + name
        state: dict[str, Tensor] = {}
        for file, names in _by_file(self.files, [prefix + own for own in module.state_dict()]):
            for read, tensor in read_tensors(file, names, device=self.device, dtype=self.dtype):
                state[read.removeprefix(prefix)] = tensor.to(self.dtype)
        with let_go_after(module):
            module.load_state_dict(state, strict=True, assign=True)
            state.clear()
            yield


def open_language_model(folder: Path, *, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Read what the folder says of itself and hold it to that. Nothing is downloaded, and no tensor is read.

    Raises `CheckpointError` when the folder is incomplete, of another model, or lacks a tensor or has one of another
    shape.
    """
    config = read_text_config(folder)
    files = {name: file for file in _weight_files(folder) for name in file.tensors}
    # Nothing, `model.`, `language_model.model.` or `model.language_model.`: by what is in the folder and who wrote it.
    prefix = next((name.removesuffix(_EMBEDDINGS) for name in files if name.endswith(_EMBEDDINGS)), "")
    for name, shape in sorted(tensor_shapes(config).items()):
        name = prefix + name
        found = files[name].tensors[name].shape if name in files else None
        if found != shape:
            what = f"{name} is {found}, expected {shape}" if found else f"lacks {name}"
            raise CheckpointError(f"{folder}: the text encoder does not fit its config.json: {what}")
    return LanguageModel(config, files, prefix, device=device, dtype=dtype)


def read_text_config(folder: Path) -> Gemma3TextConfig:
    """The language model's part of a folder's config.json. Raises `CheckpointError` when it is no Gemma 3."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a readable text encoder: {error}") from error
    if config.model_type not in _MODEL_TYPES:
        raise CheckpointError(f"{folder}: a text encoder of type {config.model_type!r}; LTX-2.3 needs Gemma 3")
    return getattr(config, "text_config", config)


def tensor_shapes(config: Gemma3TextConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the language model, by its name without a prefix."""
    layer = next(iter(_empty_layers(config).values()))
    own = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    return {
        _EMBEDDINGS: (config.vocab_size, config.hidden_size),
        "norm.weight": (config.hidden_size,),
        **{f"layers.{at}.{name}": shape for at in range(config.num_hidden_layers) for name, shape in own.items()},
    }


def _empty_layers(config: Gemma3TextConfig) -> dict[str, nn.Module]:
    """A layer of each type, on the meta device."""
    kinds = config.layer_types
    with _META:
        return {kind: Gemma3DecoderLayer(config, kinds.index(kind)).requires_grad_(False).eval() for kind in set(kinds)}


def _empty_norm(config: Gemma3TextConfig) -> nn.Module:
    with _META:
        norm: nn.Module = Gemma3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    return norm.requires_grad_(False).eval()


def _weight_files(folder: Path) -> list[Checkpoint]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [Checkpoint.open(folder / "model.safetensors")]
    try:
        names = sorted({*json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of tensors") from error
    return [Checkpoint.open(folder / name) for name in names]


def _by_file(files: Mapping[str, Checkpoint], names: Sequence[str]) -> Iterator[tuple[Checkpoint, list[str]]]:
    """The names, by the file that holds them: the tensors of a layer may be in two."""
    paths = {files[name].path: files[name] for name in names}
    for path, file in paths.items():
        yield file, [name for name in names if files[name].path == path]
