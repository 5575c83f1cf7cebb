"""The layers that the transformer and the text connectors share.

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
    """Multi-head attention with RMS-normed queries and keys and one sigmoid gate a head.

    The gate is 2 * sigmoid(W x) of the query input, applied to the heads' outputs before the output projection.
    `side` builds one side alone: "keys" can do no more than `keys_values`, "queries" no more than `look`.
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
        values_only: bool = False,
    ) -> Tensor:
        """Attend from `x` to `context`; (B, T, D).

        `values_only` is the perturbation of spatio-temporal guidance: no attention, each token keeps its own value.
        """
        if values_only:
            return self._leave(x_BTD, self.to_v(context_BSD).unflatten(-1, (self.heads, -1)))
        if context_BSD is x_BTD:
            q, k, v = project(x_BTD, self.to_q, self.to_k, self.to_v)
            return self._attend(x_BTD, q, self._keys_values(k, v, key_rotation), query_rotation)
        return self.attend(x_BTD, self.keys_values(context_BSD, key_rotation), query_rotation)

    def keys_values(self, context_BSD: Tensor, rotation: Rotation | None = None) -> KeysValues:
        """What `look` looks at: normed and rotated keys, and values, (B, H, S, K) each."""
        k, v = project(context_BSD, self.to_k, self.to_v)
        return self._keys_values(k, v, rotation)

    def attend(self, x_BTD: Tensor, keys_values: KeysValues, rotation: Rotation | None = None) -> Tensor:
        """Attend from `x` to keys and values that are there already; (B, T, D)."""
        return self._attend(x_BTD, self.to_q(x_BTD), keys_values, rotation)

    def _keys_values(self, k: Tensor, v: Tensor, rotation: Rotation | None) -> KeysValues:
        k = self._by_head(self.k_norm(k))
        return k if rotation is None else rotate(k, rotation), self._by_head(v)

    def _attend(self, x_BTD: Tensor, q: Tensor, keys_values: KeysValues, rotation: Rotation | None) -> Tensor:
        q = self._by_head(self.q_norm(q))
        if rotation is not None:
            q = rotate(q, rotation)
        return self._leave(x_BTD, F.scaled_dot_product_attention(q, *keys_values).transpose(1, 2))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return, no-untyped-call]

    def _leave(self, x_BTD: Tensor, out_BTHK: Tensor) -> Tensor:
        if self.to_gate_logits is not None:
            out_BTHK = out_BTHK * (2 * torch.sigmoid(self.to_gate_logits(x_BTD)))[..., None]
        return self.to_out(out_BTHK.flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Linear to four times the width, GELU (tanh), linear back. Names as published: `net.0.proj`, `net.2`."""

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
