"""A computation on static inputs, and on a GPU its CUDA graph: one launch in place of thousands.

In: a function of (example, noise or noisy latents, sigma), such as a training step or a sampler's forward pass, and its
inputs, always of the same shapes. Out: its result. Experimental: no GPU has run the capture yet. On a CPU the
function is called directly, on the same static inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sonolora.conditioning import Example, map_tensors

Compute = Callable[[Example, Tensor, Tensor], Tensor]
_WARM_UP = 3  # calls before the capture, on a side stream, as torch's documentation requires


class CudaGraphStep:
    """Calls `compute`, always the same one. It must not synchronise with the device, and everything else that it reads
    must keep its address.

    The warm-up calls are ordinary steps, and capturing computes nothing: no step is lost or repeated. A graph's memory
    stays reserved as long as this object lives. Graphs with the same `pool` share memory and must not run concurrently.
    """

    def __init__(self, pool: torch.cuda._POOL_HANDLE | None = None) -> None:
        self._pool = pool
        self._inputs: tuple[Example, Tensor, Tensor] | None = None
        self._calls = 0
        self._stream: torch.cuda.Stream | None = None  # one for all calls: freed memory belongs to its stream
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None

    def __call__(self, compute: Compute, example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
        """The result of `compute`, as a tensor of its own."""
        if self._inputs is None:
            self._inputs = map_tensors(lambda parts: parts[0].clone(), example), noise_BTC.clone(), sigma_B.clone()
        inputs = self._inputs
        map_tensors(lambda parts: parts[0].copy_(parts[1]), inputs[0], example)
        inputs[1].copy_(noise_BTC)
        inputs[2].copy_(sigma_B)
        if noise_BTC.device.type != "cuda":
            return compute(*inputs)
        with torch.cuda.device(noise_BTC.device):  # streams and graphs are created on the current device
            return self._on_gpu(compute, inputs)

    def _on_gpu(self, compute: Compute, inputs: tuple[Example, Tensor, Tensor]) -> Tensor:
        self._calls += 1
        if self._calls <= _WARM_UP:
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream, current = self._stream, torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                output = compute(*inputs)
            current.wait_stream(stream)
            return output
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=self._pool):
                self._output = compute(*inputs)
        self._graph.replay()
        assert self._output is not None
        return self._output.clone()  # the next replay overwrites it
