"""Weights as other programs store them: 8-bit codes with a scale, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

F8 = torch.float8_e4m3fn
MARK = json.dumps({"format": "float8_e4m3fn"}).encode()


def block_linears(weights: Mapping[str, Tensor]) -> list[str]:
    """The weights of linear layers in the transformer's blocks."""
    return [n for n, t in weights.items() if "transformer_blocks." in n and n.endswith(".weight") and t.dim() == 2]


def scaled_fp8(
    weights: Mapping[str, Tensor], linears: Iterable[str], naming: str = "weight_scale", *, rows: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As ComfyUI stores them, and the weights that are meant."""
    stored, meant = dict(weights), dict(weights)
    for name in linears:
        weight, stem = weights[name].float(), name.removesuffix(".weight")
        largest = weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()
        scale = (largest / 448).clamp(min=1e-8)  # some weights are zero
        stored[name], stored[f"{stem}.{naming}"] = (weight / scale).to(F8), scale
        stored[f"{stem}.{'input_scale' if naming == 'weight_scale' else 'scale_input'}"] = torch.tensor(1.0)
        stored[f"{stem}.comfy_quant"] = torch.tensor(list(MARK), dtype=torch.uint8)
        meant[name] = stored[name].float() * scale
    stored["scaled_fp8"] = torch.empty(0, dtype=F8)
    return stored, meant
