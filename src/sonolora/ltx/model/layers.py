"""Layers shared by the transformer and the text connectors.

B batch, T query tokens, S context tokens, D width, H heads, K channels of a head, O outputs of several layers.
Source: the published model (gated attention of LTX-2.3), reimplemented from its equations.
"""

from __future__ import annotations

from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.ltx.model.joint_linear import JointLinear
from sonolora.ltx.model.norms import heads_norm
from sonolora.ltx.model.rope import Rotation

KeysValues = tuple[Tensor, Tensor]
QUERY_PARTS, KEY_PARTS = ("q_norm", "to_q", "to_gate_logits", "to_out"), ("k_norm", "to_k", "to_v")
_QUERIES, _KEYS_VALUES, _NORMS = ("to_q", "to_gate_logits"), ("to_k", "to_v"), ("q_norm", "k_norm")
_ALL = "to_q", "to_k", "to_v", "to_gate_logits"


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys and one sigmoid gate per head.

    The gate 2 * sigmoid(W x) of the query input scales each head's output before the output projection. Without a
    `context_dim` it is self-attention. `side` builds only the layers of one side of a cross-attention: "keys" supports
    `keys_values`, "queries" supports `forward_with_kv`.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None,
        heads: int,
        head_dim: int,
        *,
        gated: bool,
        eps: float,
        side: Literal["both", "keys", "queries"] = "both",
    ) -> None:
        super().__init__()
        self.width = heads * head_dim
        self.heads = heads
        self.eps = eps
        self.q_norm = nn.RMSNorm(self.width, eps=eps)
        self.k_norm = nn.RMSNorm(self.width, eps=eps)
        self.to_q = nn.Linear(query_dim, self.width)
        self.to_k = nn.Linear(context_dim or query_dim, self.width)
        self.to_v = nn.Linear(context_dim or query_dim, self.width)
        self.to_gate_logits = nn.Linear(query_dim, heads) if gated else None
        self.to_out = nn.Sequential(nn.Linear(self.width, query_dim))
        for name in {"both": (), "keys": QUERY_PARTS, "queries": KEY_PARTS}[side]:
            delattr(self, name)
        # Layers by their input, and norms that are computed together; `side` may lack some.
        self.inputs = (_ALL,) if context_dim is None else (_QUERIES, _KEYS_VALUES)
        norms = (_NORMS,) if context_dim is None else (_NORMS[:1], _NORMS[1:])
        self.norms = tuple(names for names in norms if all(hasattr(self, name) for name in names))
        self.joint: dict[str, tuple[tuple[str, ...], JointLinear]] = {}  # by the first of the layers
        self.norm_weights: dict[tuple[str, ...], Tensor] = {}  # float32

    def join(self) -> None:
        """Compute frozen layers of one input as one product from now on. Their names stay."""
        for norms in self.norms:
            self.norm_weights[norms] = stacked = self._norm_weights(norms).detach()
            for name, row in zip(norms, stacked, strict=True):
                getattr(self, name).weight.data = row
        for names in self.inputs:
            present = [name for name in names if getattr(self, name, None) is not None]
            for _, alike in groupby(present, lambda name: type(getattr(self, name))):
                if len(together := tuple(alike)) > 1:
                    self.joint[together[0]] = together, JointLinear([getattr(self, name) for name in together])

    def joint_tensors(self) -> list[Tensor]:
        """What `join` has made, in addition to parameters and buffers."""
        joints = [joint for _, joint in self.joint.values()]
        biases = [joint.bias for joint in joints if joint.bias is not None]
        return [*self.norm_weights.values(), *biases, *(tensor for joint in joints for tensor in joint.frozen)]

    def forward(
        self,
        x_BTD: Tensor,
        context_BSD: Tensor | None = None,
        rotation: Rotation | None = None,
        *,
        values_only: bool | Tensor = False,
        context_index_B: Tensor | None = None,
    ) -> Tensor:
        """Attend from `x` to `context`, with an index to that row of it, or to itself; (B, T, D).

        `values_only` is the perturbation of spatio-temporal guidance: no attention, each token keeps its own value; a
        mask (B,) perturbs some samples of a self-attention.
        """
        if context_BSD is not None:
            k, v = self.keys_values(context_BSD)
            if context_index_B is not None:
                k, v = k[context_index_B], v[context_index_B]
            return self.forward_with_kv(x_BTD, (k, v), rotation)
        all_BTO = self._project(x_BTD, _ALL)
        queries_keys, v, gate = _split(all_BTO, 2 * self.width, self.width)
        q, k = self._normed(queries_keys, _NORMS, rotation)
        v = self._by_head(v)
        if values_only is True:
            return self._gate_and_project(v, gate)
        out_BHTK = _attend(q, k, v)
        if isinstance(values_only, Tensor):
            out_BHTK = torch.where(values_only[:, None, None, None], v, out_BHTK)
        return self._gate_and_project(out_BHTK, gate)

    def keys_values(self, context_BSD: Tensor, rotation: Rotation | None = None) -> KeysValues:
        """Keys (normed and rotated) and values for `forward_with_kv`, (B, H, S, K) each."""
        k, v = self._project(context_BSD, _KEYS_VALUES).chunk(2, dim=-1)
        return self._normed(k, _NORMS[1:], rotation)[0], self._by_head(v)

    def forward_with_kv(self, x_BTD: Tensor, keys_values: KeysValues, rotation: Rotation | None = None) -> Tensor:
        """Attend from `x` to given keys and values; (B, T, D)."""
        q, gate = _split(self._project(x_BTD, _QUERIES), self.width)
        (q,) = self._normed(q, _NORMS[:1], rotation)
        return self._gate_and_project(_attend(q, *keys_values), gate)

    def _project(self, x_BTD: Tensor, names: tuple[str, ...]) -> Tensor:
        """The outputs of layers with one input side by side, (B, T, O)."""
        outputs, done = [], 0
        while done < len(names):
            together, joint = self.joint.get(names[done], ((), None))
            if joint is not None and joint.usable:
                outputs.append(joint(x_BTD))
                done += len(together)
                continue
            layer = getattr(self, names[done])
            outputs += [] if layer is None else [layer(x_BTD)]
            done += 1
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def _normed(self, x_BTD: Tensor, norms: tuple[str, ...], rotation: Rotation | None) -> tuple[Tensor, ...]:
        """Queries and keys that lie side by side, each normed and rotated, (B, H, T, K)."""
        weights_GD = self.norm_weights[norms] if self.norm_weights else self._norm_weights(norms)
        x_BTGD = torch.unflatten(x_BTD, -1, (len(norms), -1))
        normed_BTGD = heads_norm(x_BTGD, weights_GD, rotation, self.heads, self.eps)
        parts = normed_BTGD.unbind(2) if len(norms) > 1 else (normed_BTGD.squeeze(2),)
        return tuple(map(self._by_head, parts))

    def _norm_weights(self, norms: tuple[str, ...]) -> Tensor:
        return torch.stack([getattr(self, name).weight for name in norms]).float()

    def _by_head(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def _gate_and_project(self, out_BHTK: Tensor, gate_BTH: Tensor) -> Tensor:
        """`gate_BTH` has no columns where there is no gate."""
        out_BTHK = out_BHTK.transpose(1, 2)
        if gate_BTH.shape[-1]:
            out_BTHK = out_BTHK * (2 * torch.sigmoid(gate_BTH))[..., None]
        return self.to_out(out_BTHK.flatten(2))  # type: ignore[no-any-return]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (B, H, T, K). What members of a sweep share has batch 1."""
    batch = max(len(q), len(k), len(v))
    q, k, v = (one if len(one) == batch else one.expand(batch, -1, -1, -1) for one in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)


def _split(x: Tensor, *widths: int) -> tuple[Tensor, ...]:
    """Columns of these widths, and those that remain."""
    return torch.split(x, [*widths, x.shape[-1] - sum(widths)], dim=-1)


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
