"""Models in several files, or under other prefixes: brought together under the published names.

In: safetensors files that each hold one or more networks of LTX-2.3, as ComfyUI users have them. Out: one `Checkpoint`
with the published names, whose tensors are read from where they are.

    transformer         model.diffusion_model.X, diffusion_model.X or X
    text connectors     with the transformer, or alone under the same prefixes
    audio VAE           audio_vae.X or X
    vocoder             vocoder.X, where X begins with vocoder., bwe_generator. or mel_stft.; or X
    video VAE           vae.X or X
    text projections    text_embedding_projection.X or X

Without a config in any header, the sizes decide: those of the published model have its config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sonolora.core.errors import CheckpointError, first_few
from sonolora.core.tensor_file import TensorInfo
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG, LTX23_VERSION
from sonolora.ltx.weights.stored_tensor import in_file
from sonolora.ltx.weights.tensor_table import published_tensors

TRANSFORMER = "model.diffusion_model."
PARTS = {
    "the transformer": f"{TRANSFORMER}transformer_blocks.",
    "the text connectors": f"{TRANSFORMER}audio_embeddings_connector.",
    "the text projections": "text_embedding_projection.",
    "the audio VAE": "audio_vae.",
    "the vocoder": "vocoder.",
    "the video VAE": "vae.",
}
_LAYOUTS = (  # a name that occurs in a file, and what all names of that file lack; the first match counts
    (r"(model\.diffusion_model|audio_vae|text_embedding_projection|vae)\.|vocoder\.(vocoder|bwe_generator)\.", ""),
    (r"diffusion_model\.", "model."),
    (r"transformer_blocks\.\d+\.audio_attn1\.", TRANSFORMER),
    (r"(audio|video)_embeddings_connector\.", TRANSFORMER),
    (r"bwe_generator\.", "vocoder."),
    (r"audio_aggregate_embed\.", "text_embedding_projection."),
    (r"(encoder\.down|decoder\.up)_blocks\.", "vae."),
    (r"(encoder\.down|decoder\.up)\.\d", "audio_vae."),
)


def open_parts(paths: Sequence[Path]) -> Checkpoint:
    """The checkpoint that these files make together; its `path` is that of the first.

    Raises `CheckpointError` for a file that cannot be read, and for a tensor or a config that two files have.
    """
    files = [Checkpoint.open(path) for path in paths]
    tensors: dict[str, TensorInfo] = {}
    config: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for file in files:
        own = {name: in_file(info, file.path) for name, info in with_published_names(file.tensors).items()}
        if twice := sorted(tensors.keys() & own.keys()):
            raise CheckpointError(
                f"{file.path}: {first_few(twice, 1)} are in another of the files, too: name each once"
            )
        tensors |= own
        metadata = {**file.metadata, **metadata}
        for section, value in _config(file).items():
            if config.setdefault(section, value) != value:
                raise CheckpointError(f"{file.path}: its header has another config for '{section}' than another file")
    if len(files) == 1 and tensors.keys() == files[0].tensors.keys() and config:
        return files[0]
    if not config and (inferred := infer_config(tensors)) is not None:
        config = dict(inferred)
        metadata.setdefault("model_version", LTX23_VERSION)
    return Checkpoint(paths[0], tensors, {**metadata, **({"config": config} if config else {})})


def with_published_names(tensors: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """The tensors of one file under the published names; unchanged if nothing in it is known."""
    for pattern, prefix in _LAYOUTS:
        if any(re.match(pattern, name) for name in tensors):
            return {prefix + name: info for name, info in tensors.items()} if prefix else tensors
    return tensors


def infer_config(tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any] | None:
    """The published config with as many layers as there are; None if a tensor does not fit it."""
    blocks = [int(match[1]) for name in tensors if (match := re.match(r".*transformer_blocks\.(\d+)\.", name))]
    transformer = {**LTX23_CONFIG["transformer"], "num_layers": max(blocks, default=-1) + 1}
    config = {**LTX23_CONFIG, "transformer": transformer}
    table = published_tensors(config)
    fits = all(name in table and table[name].shape == info.shape for name, info in tensors.items())
    return config if tensors and fits else None


def _config(file: Checkpoint) -> dict[str, Any]:
    config = file.metadata.get("config")
    return {key: value for key, value in config.items() if value is not None} if isinstance(config, dict) else {}
