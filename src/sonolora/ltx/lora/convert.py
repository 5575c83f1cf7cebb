"""Rewrites a LoRA for another program: its key names, a smaller rank, its audio layers alone.

In: an opened LoRA, a form, a rank, kinds of layers. Out: a file with plain low-rank factors, and how exact it is.

    comfyui    diffusion_model.<layer>.lora_A/lora_B.weight       as the publisher's and ours; no alpha
    diffusers  transformer.<layer>.lora_A/lora_B.weight           names of diffusers; no alpha, which its loader refuses
    kohya      lora_unet_<layer>.lora_down/lora_up.weight, .alpha dots become underscores; alpha is the rank

A scale (alpha / rank) goes into B. A smaller rank is the best one in the Frobenius norm: the largest singular values of
the update. LoHa, LoKr and full differences are written as the low-rank part that a given rank holds.

r rank of the file, O outputs, I inputs, N new rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sonolora.core.errors import InputError
from sonolora.core.tensor_file import save_tensors
from sonolora.ltx.lora.layer_kinds import AUDIO_KINDS, TEXT, VIDEO_TO_AUDIO, layer_kind
from sonolora.ltx.lora.lora_file import LoRAFile
from sonolora.ltx.lora.lora_names import FILE_PREFIX, diffusers_name
from sonolora.ltx.lora.peft_settings import PEFT_SETTINGS

FORMS = COMFYUI, DIFFUSERS, KOHYA = "comfyui", "diffusers", "kohya"
AUDIO_SIDE = (*AUDIO_KINDS, VIDEO_TO_AUDIO)  # all that writes into the audio stream
# Layers of the last block that nothing reads but the audio's own output, see `pictures_unchanged`.
_AFTER_THE_EXCHANGE = ("audio_ff.", "video_to_audio_attn.")


@dataclass(frozen=True)
class Conversion:
    """What was written. Errors are ||new - old|| / ||old|| of the updates, Frobenius norms."""

    layers: int
    skipped: tuple[str, ...]  # of another kind than asked for
    error: float
    worst: tuple[str, float]  # the layer with the largest error
    ranks: tuple[int, ...]


def convert(
    lora: LoRAFile, out: Path, form: str, *, rank: int | None = None, only_audio: bool = False, dtype: torch.dtype
) -> Conversion:
    """Write `out` atomically. Without `rank` each layer keeps its own.

    Raises `InputError` for a DoRA, which is a function of the base's weights and needs `merge`; for an adapter that is
    not of low rank without `rank`; and when no layer is left.
    """
    layers = [name for name in lora.layers if not only_audio or layer_kind(name) in AUDIO_SIDE]
    if form == DIFFUSERS:
        layers = [name for name in layers if layer_kind(name) != TEXT or "text_embedding_projection" in name]
    if not layers:
        raise InputError.of("lora", f"{lora.path.name} has no {'audio ' if only_audio else ''}layers for {form}")
    _require_low_rank(lora, layers, rank)
    tensors: dict[str, Tensor] = {}
    errors: dict[str, tuple[float, float]] = {}  # squares of error and norm
    ranks = set()
    for name in layers:
        exact_down, exact_up = _factors(lora, name)
        down, up = _reduced(exact_down, exact_up, rank)
        down, up = down.to(dtype), up.to(dtype)
        ranks.add(len(down))
        errors[name] = _squares(down, up, exact_down, exact_up)
        tensors |= _WRITERS[form](name, down.contiguous(), up.contiguous())
    save_tensors(out, tensors, _metadata(lora, form, rank, only_audio=only_audio))
    total = _ratio(*map(sum, zip(*errors.values(), strict=True)))
    worst = max(errors, key=lambda name: _ratio(*errors[name]))
    skipped = tuple(name for name in lora.layers if name not in errors)
    return Conversion(len(layers), skipped, total, (worst, _ratio(*errors[worst])), tuple(sorted(ranks)))


def pictures_unchanged(layers: Mapping[str, object], last_block: int) -> bool:
    """Whether a LoRA with these layers leaves the pictures of a joint audio and video model as they are, exactly.

    In every block the video attends to the audio as it is before the feed-forward layers. So every layer of the audio
    stream reaches the pictures of later blocks; only the audio's feed-forward layer and its attention to the video in
    the last block, and its output layer, do not.
    """

    def is_behind(name: str) -> bool:
        inside = name.removeprefix(f"transformer_blocks.{last_block}.")
        return name.startswith("audio_proj_out") or (inside != name and inside.startswith(_AFTER_THE_EXCHANGE))

    return all(is_behind(name) for name in layers)


def _require_low_rank(lora: LoRAFile, layers: list[str], rank: int | None) -> None:
    dora = [name for name in layers if lora.layers[name].is_dora]
    if dora:
        raise InputError.of(
            "lora", f"{lora.path.name} is a DoRA ({dora[0]}), a function of the base's weights: use `sonolora merge`"
        )
    others = [name for name in layers if not lora.layers[name].is_plain_lora]
    if others and rank is None:
        kinds = ", ".join(sorted({lora.layers[name].kind for name in others}))
        raise InputError.of("rank", f"{lora.path.name} holds {kinds} in {len(others)} layers: give --rank")


def _factors(lora: LoRAFile, name: str) -> tuple[Tensor, Tensor]:
    """A (r, I) and B (O, r) whose product is the update, float64."""
    update = lora.layers[name]
    if update.is_plain_lora:
        down, up = lora.read_pair(name)
        return down.double(), update.scale * up.double()
    whole = lora.read(name)(torch.empty(0)).double()  # a function of its factors alone
    return torch.eye(whole.shape[1], dtype=whole.dtype), whole


def _reduced(down: Tensor, up: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """The best factors of this rank; those given if they have no more. Singular values are shared by both halves."""
    if rank is None or len(down) <= rank:
        return down, up
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T)
    roots = values[:rank].sqrt()
    return roots[:, None] * (right[:rank] @ q_down.T), (q_up @ left[:, :rank]) * roots


def _squares(down: Tensor, up: Tensor, exact_down: Tensor, exact_up: Tensor) -> tuple[float, float]:
    """Squared norms of the error and of the exact update."""
    exact = exact_up @ exact_down
    return float((up.double() @ down.double() - exact).square().sum()), float(exact.square().sum())


def _ratio(error: float, norm: float) -> float:
    return math.sqrt(error / norm) if norm else 0.0


def _metadata(lora: LoRAFile, form: str, rank: int | None, *, only_audio: bool) -> dict[str, str]:
    """That of the LoRA, but for the settings of a scale that is in B now."""
    kept = {name: text for name, text in lora.metadata.items() if name != PEFT_SETTINGS}
    if rank is not None:
        kept |= {"rank": str(rank), "alpha": str(rank)}
    return {**kept, "converted_to": form, **({"converted_layers": "audio"} if only_audio else {})}


def _comfyui(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"{FILE_PREFIX}{name}.lora_A.weight": down, f"{FILE_PREFIX}{name}.lora_B.weight": up}


def _diffusers(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    key = name if name.startswith("text_embedding_projection") else f"transformer.{diffusers_name(name)}"
    return {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}


def _kohya(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    key = f"lora_unet_{name.replace('.', '_')}"
    alpha = torch.tensor(float(len(down)))
    return {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}


_Writer = Callable[[str, Tensor, Tensor], dict[str, Tensor]]
_WRITERS: Mapping[str, _Writer] = {COMFYUI: _comfyui, DIFFUSERS: _diffusers, KOHYA: _kohya}
