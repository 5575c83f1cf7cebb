"""Runs Gemma 3 from tokens to hidden states with one layer in memory at a time.

In: a folder in Hugging Face format with the language model, alone or within the multimodal Gemma 3, in one or several
files; prompts as token ids. Out: the hidden states of all prompts, state by state.

Every weight is read once, and all prompts pass through a layer while it is loaded. The device holds one layer (0.45 GB
of the 23.5 GB of Gemma 3 12B) and the activations of one prompt; hidden states of the other prompts are on the host. Of
the embedding table only the rows of the tokens in use are read.

n tokens of a prompt, E width. The layer modules are those of the transformers library. Not yet run on a GPU.
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
from sonolora.ltx.text.single_file import gemma_config
from sonolora.ltx.weights.checkpoint import Checkpoint, read_tensors, unloaded_on_exit
from sonolora.ltx.weights.stored_tensor import row_of
from sonolora.ltx.weights.verify import gemma_prefix

_MODEL_TYPES = ("gemma3", "gemma3_text")
_EMBEDDINGS = "embed_tokens.weight"
_MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
_CPU, _META = torch.device("cpu"), torch.device("meta")


class LanguageModel:
    """The headers of a language model's files; no tensor is loaded.

    `files` maps `prefix` + each name of `tensor_shapes` to its file. Hidden states between layers are kept on `host`.
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
        config._attn_implementation = "sdpa"  # as in the whole model of transformers
        self.config, self.files, self.prefix = config, files, prefix
        self.device, self.dtype, self.host = device, dtype, host
        # One module per layer type, on the meta device except while in use.
        self._layers, self._norm = _meta_layers(config), _meta_norm(config)

    @property
    def state_count(self) -> int:
        """Number of hidden states of a token: its embedding, and one per layer."""
        return int(self.config.num_hidden_layers) + 1

    def states(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, Tensor]]:
        """Yields (index of the state, index of the prompt, hidden state (1, n, E) on the device), state by state.

        The first state is the scaled embedding, the last one is after the final norm. Prompts are not batched and not
        padded, so the result does not depend on the other prompts. Raises `CheckpointError` when reading fails.
        """
        states = self._embed(prompts)
        for prompt, state in enumerate(states):
            yield 0, prompt, state.to(self.device)
        layer_inputs = {length: self._layer_inputs(length) for length in {len(prompt) for prompt in prompts}}
        for layer in range(self.config.num_hidden_layers):
            for prompt, state in self._run_layer(layer, states, layer_inputs):
                states[prompt] = state.to(self.host)
                yield layer + 1, prompt, state

    def _embed(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        tokens = sorted({token for prompt in prompts for token in prompt})
        rows, name = self.config.vocab_size, self.prefix + _EMBEDDINGS
        if tokens[-1:] and tokens[-1] >= rows:
            raise CheckpointError(f"{self.files[name].path.parent}: token {tokens[-1]}, but {name} has {rows} rows")
        info = self.files[name].tensors[name]
        row_infos = {str(row): row_of(info, row) for row in tokens}
        table = replace(self.files[name], tensors=row_infos)
        scale = torch.tensor(self.config.hidden_size**0.5).to(self.dtype)
        embeddings = {
            row: values[0].to(self.dtype) * scale
            for row, values in read_tensors(table, row_infos, device=self.host, dtype=self.dtype)
        }
        return [torch.stack([embeddings[str(token)] for token in prompt])[None] for prompt in prompts]

    def _layer_inputs(self, length: int) -> dict[str, dict[str, Any]]:
        """Position embeddings and attention mask for a prompt of this length, by layer type."""
        like = torch.empty(1, length, self.config.hidden_size, device=self.device, dtype=self.dtype)
        positions = torch.arange(length, device=self.device)[None]
        rotary = Gemma3RotaryEmbedding(self.config)
        return {
            kind: {
                "position_embeddings": rotary(like, positions, kind),
                "attention_mask": _MASKS[kind](
                    config=self.config, inputs_embeds=like, attention_mask=None, past_key_values=None
                ),
            }
            for kind in set(self.config.layer_types)
        }

    def _run_layer(
        self, index: int, states: Sequence[Tensor], layer_inputs: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[tuple[int, Tensor]]:
        """Run one layer on each prompt's state; it stays loaded until the last of them."""
        kind = self.config.layer_types[index]
        layer, last = self._layers[kind], index == self.config.num_hidden_layers - 1
        with self._loaded(layer, f"layers.{index}."), self._loaded(self._norm, "norm.") if last else nullcontext():
            for prompt, state in enumerate(states):
                state = layer(state.to(self.device), **layer_inputs[state.shape[1]][kind])
                yield prompt, self._norm(state) if last else state

    @contextmanager
    def _loaded(self, module: nn.Module, name: str) -> Iterator[None]:
        """Context in which the module is loaded with the tensors whose names start with `name`."""
        prefix = self.prefix + name
        state: dict[str, Tensor] = {}
        for file, names in _by_file(self.files, [prefix + own for own in module.state_dict()]):
            for full_name, tensor in read_tensors(file, names, device=self.device, dtype=self.dtype):
                state[full_name.removeprefix(prefix)] = tensor.to(self.dtype)
        with unloaded_on_exit(module):
            module.load_state_dict(state, strict=True, assign=True)
            state.clear()
            yield


def open_language_model(folder: Path, *, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Read the config and headers of a folder or single file and check them against each other. No tensor is read.

    Raises `CheckpointError` when the folder is incomplete or holds another model, or when a tensor is missing or has
    another shape.
    """
    config = read_text_config(folder)
    weight_files = _weight_files(folder)
    files = {name: file for file in weight_files for name in file.tensors}
    # "", `model.`, `language_model.model.` or `model.language_model.`, depending on what wrote the file.
    prefix = next(filter(None, map(gemma_prefix, weight_files)), "")
    for name, shape in sorted(tensor_shapes(config).items()):
        name = prefix + name
        actual = files[name].tensors[name].shape if name in files else None
        if actual != shape:
            fault = f"{name} is {actual}, expected {shape}" if actual else f"{name} is missing"
            raise CheckpointError(f"{folder}: the text encoder does not fit its config.json: {fault}")
    return LanguageModel(config, files, prefix, device=device, dtype=dtype)


def read_text_config(folder: Path) -> Gemma3TextConfig:
    """The language model's part of a folder's config.json, or what a single file's sizes say.

    Raises `CheckpointError` when it is not Gemma 3.
    """
    if folder.is_file():
        return gemma_config(Checkpoint.open(folder))
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a readable text encoder: {error}") from error
    if config.model_type not in _MODEL_TYPES:
        raise CheckpointError(f"{folder}: a text encoder of type {config.model_type!r}; LTX-2.3 needs Gemma 3")
    return getattr(config, "text_config", config)


def tensor_shapes(config: Gemma3TextConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the language model, by its name without prefix."""
    layer = next(iter(_meta_layers(config).values()))
    own = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    return {
        _EMBEDDINGS: (config.vocab_size, config.hidden_size),
        "norm.weight": (config.hidden_size,),
        **{f"layers.{index}.{name}": shape for index in range(config.num_hidden_layers) for name, shape in own.items()},
    }


def _meta_layers(config: Gemma3TextConfig) -> dict[str, nn.Module]:
    """One layer of each type, on the meta device."""
    kinds = config.layer_types
    with _META:
        return {kind: Gemma3DecoderLayer(config, kinds.index(kind)).requires_grad_(False).eval() for kind in set(kinds)}


def _meta_norm(config: Gemma3TextConfig) -> nn.Module:
    with _META:
        norm: nn.Module = Gemma3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    return norm.requires_grad_(False).eval()


def _weight_files(folder: Path) -> list[Checkpoint]:
    if folder.is_file():
        return [Checkpoint.open(folder)]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [Checkpoint.open(folder / "model.safetensors")]
    try:
        names = sorted({*json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a tensor index") from error
    return [Checkpoint.open(folder / name) for name in names]


def _by_file(files: Mapping[str, Checkpoint], names: Sequence[str]) -> Iterator[tuple[Checkpoint, list[str]]]:
    """The names grouped by file: a layer's tensors may be in two files."""
    paths = {files[name].path: files[name] for name in names}
    for path, file in paths.items():
        yield file, [name for name in names if files[name].path == path]
