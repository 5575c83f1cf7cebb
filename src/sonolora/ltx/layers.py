"""The layers that the transformer and the text connectors share.

B batch, T query tokens, S context tokens, D width, H heads, K channels of a head.
Source: the published model (gated attention of LTX-2.3), reimplemented from its equations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.ltx.rope import Rotation, rotate


def rms(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, without a weight."""
    return F.rms_norm(x, (x.shape[-1],), eps=eps)


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys and one sigmoid gate a head.

    The gate is 2 * sigmoid(W x) of the query input, applied to the heads' outputs before the output projection.
    """

    def __init__(self, query_dim: int, context_dim: int, heads: int, head_dim: int, *, gated: bool, eps: float) -> None:
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
        value = self.to_v(context_BSD)
        if values_only:
            out = value.unflatten(-1, (self.heads, -1))  # (B, T, H, K)
        else:
            q, k, v = (
                part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for part in (self.q_norm(self.to_q(x_BTD)), self.k_norm(self.to_k(context_BSD)), value)
            )
            if query_rotation is not None:
                q = rotate(q, query_rotation)
            if key_rotation is not None:
                k = rotate(k, key_rotation)
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        if self.to_gate_logits is not None:
            out = out * (2 * torch.sigmoid(self.to_gate_logits(x_BTD)))[..., None]
        return self.to_out(out.flatten(2))  # type: ignore[no-any-return]


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
