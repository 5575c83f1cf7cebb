"""Work whose inputs always lie in the same memory, and on a GPU its CUDA graph: one launch in place of thousands.

In: a function of (example, noisy or noise, sigma), a step of training or a pass of the sampler, and what it is called
with, always of the same shapes. Out: what it returns. Experimental: no GPU has run the capture yet. On a CPU the
function is called as it is, on the same static inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sonolora.conditioning import Example, map_tensors

Compute = Callable[[Example, Tensor, Tensor], Tensor]
_WARM_UP = 3  # calls before the capture, on a stream of their own, as torch's documentation asks for


class CudaGraphStep:
    """Calls `compute`, the same one always; it must not wait for the device, and what else it reads must stay in place.

    The calls that warm up are steps like any other, and a capture computes nothing: no step is lost or repeated.
    What a graph works with stays reserved as long as this object lives. Those that are given the same `pool` work in
    the same memory: they must not run at once.
    """

    def __init__(self, pool: torch.cuda._POOL_HANDLE | None = None) -> None:
        self._pool = pool
        self._inputs: tuple[Example, Tensor, Tensor] | None = None
        self._calls = 0
        self._stream: torch.cuda.Stream | None = None  # one for all: memory that is free belongs to its stream
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None

    def __call__(self, compute: Compute, example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
        """What `compute` returns, as a tensor of its own."""
        if self._inputs is None:
            self._inputs = map_tensors(lambda parts: parts[0].clone(), example), noise_BTC.clone(), sigma_B.clone()
        inputs = self._inputs
        map_tensors(lambda parts: parts[0].copy_(parts[1]), inputs[0], example)
        inputs[1].copy_(noise_BTC)
        inputs[2].copy_(sigma_B)
        if noise_BTC.device.type != "cuda":
            return compute(*inputs)
        with torch.cuda.device(noise_BTC.device):  # streams and graphs are made for the current one
            return self._on_card(compute, inputs)

    def _on_card(self, compute: Compute, inputs: tuple[Example, Tensor, Tensor]) -> Tensor:
        self._calls += 1
        if self._calls <= _WARM_UP:
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream, here = self._stream, torch.cuda.current_stream()
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                made = compute(*inputs)
            here.wait_stream(stream)
            return made
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=self._pool):
                self._output = compute(*inputs)
        self._graph.replay()
        assert self._output is not None
        return self._output.clone()  # the next replay writes over it
