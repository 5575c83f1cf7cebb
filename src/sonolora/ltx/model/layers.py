"""Layers shared by the transformer and the text connectors.

B batch, T query tokens, S context tokens, D width, H heads, K channels of a head.
Source: the published model (gated attention of LTX-2.3), reimplemented from its equations.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.ltx.model.lora_layer import project
from sonolora.ltx.model.rope import Rotation, rotate

KeysValues = tuple[Tensor, Tensor]
QUERY_PARTS, KEY_PARTS = ("q_norm", "to_q", "to_gate_logits", "to_out"), ("k_norm", "to_k", "to_v")


def rms(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, without a weight."""
    return F.rms_norm(x, (x.shape[-1],), eps=eps)


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys and one sigmoid gate per head.

    The gate 2 * sigmoid(W x) of the query input scales each head's output before the output projection.
    `side` builds only the layers of one side: "keys" supports `keys_values`, "queries" supports `forward_with_kv`.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int,
        heads: int,
        head_dim: int,
        *,
        gated: bool,
        eps: float,
        side: Literal["both", "keys", "queries"] = "both",
    ) -> None:
        super().__init__()
        width = heads * head_dim
        self.heads = heads
        self.eps = eps
        self.q_norm = nn.RMSNorm(width, eps=eps)
        self.k_norm = nn.RMSNorm(width, eps=eps)
        self.to_q = nn.Linear(query_dim, width)
        self.to_k = nn.Linear(context_dim, width)
        self.to_v = nn.Linear(context_dim, width)
        self.to_gate_logits = nn.Linear(query_dim, heads) if gated else None
        self.to_out = nn.Sequential(nn.Linear(width, query_dim))
        for name in {"both": (), "keys": QUERY_PARTS, "queries": KEY_PARTS}[side]:
            delattr(self, name)

    def forward(
        self,
        x_BTD: Tensor,
        context_BSD: Tensor,
        query_rotation: Rotation | None = None,
        key_rotation: Rotation | None = None,
        *,
        values_only: bool | Tensor = False,
    ) -> Tensor:
        """Attend from `x` to `context`; (B, T, D).

        `values_only` is the perturbation of spatio-temporal guidance: no attention, each token keeps its own value; a
        mask (B,) perturbs some samples of a self-attention.
        """
        if values_only is True:
            return self._gate_and_project(x_BTD, self.to_v(context_BSD).unflatten(-1, (self.heads, -1)))
        if context_BSD is x_BTD:
            q, k, v = project(x_BTD, self.to_q, self.to_k, self.to_v)
            keys_values = self._keys_values(k, v, key_rotation)
            mask_B = values_only if isinstance(values_only, Tensor) else None
            return self._attention(x_BTD, q, keys_values, query_rotation, mask_B)
        return self.forward_with_kv(x_BTD, self.keys_values(context_BSD, key_rotation), query_rotation)

    def keys_values(self, context_BSD: Tensor, rotation: Rotation | None = None) -> KeysValues:
        """Keys (normed and rotated) and values for `forward_with_kv`, (B, H, S, K) each."""
        k, v = project(context_BSD, self.to_k, self.to_v)
        return self._keys_values(k, v, rotation)

    def forward_with_kv(self, x_BTD: Tensor, keys_values: KeysValues, rotation: Rotation | None = None) -> Tensor:
        """Attend from `x` to given keys and values; (B, T, D)."""
        return self._attention(x_BTD, self.to_q(x_BTD), keys_values, rotation)

    def _keys_values(self, k: Tensor, v: Tensor, rotation: Rotation | None) -> KeysValues:
        k = self._by_head(self.k_norm(k))
        return k if rotation is None else rotate(k, rotation), self._by_head(v)

    def _attention(
        self,
        x_BTD: Tensor,
        q: Tensor,
        keys_values: KeysValues,
        rotation: Rotation | None,
        values_only_B: Tensor | None = None,
    ) -> Tensor:
        q = self._by_head(self.q_norm(q))
        if rotation is not None:
            q = rotate(q, rotation)
        out_BHTK = F.scaled_dot_product_attention(q, *keys_values)
        if values_only_B is not None:
            out_BHTK = torch.where(values_only_B[:, None, None, None], keys_values[1], out_BHTK)
        return self._gate_and_project(x_BTD, out_BHTK.transpose(1, 2))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return, no-untyped-call]

    def _gate_and_project(self, x_BTD: Tensor, out_BTHK: Tensor) -> Tensor:
        if self.to_gate_logits is not None:
            out_BTHK = out_BTHK * (2 * torch.sigmoid(self.to_gate_logits(x_BTD)))[..., None]
        return self.to_out(out_BTHK.flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Linear to four times the width, GELU (tanh), linear back. Published names: `net.0.proj`, `net.2`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_GeluProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class _GeluProjection(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")
