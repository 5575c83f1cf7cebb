"""A computation on static inputs, and on a GPU its CUDA graph: one launch in place of thousands.

In: a function of (example, noise or noisy latents, sigma), such as a training step or a sampler's forward pass, and its
inputs, always of the same shapes. Out: its result. On a CPU the function is called directly, on the same static inputs.
Experimental: no GPU has run the capture yet. Tests run it with captures and replays emulated on another memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from sonolora.conditioning import Example, distinct_tensors, map_tensors
from sonolora.core.devices import has_own_memory

Compute = Callable[[Example, Tensor, Tensor], Tensor]
Warn = Callable[[str], object]
_WARM_UP = 3  # calls before the capture, on a side stream, as torch's documentation requires


def silent(_: str) -> None:
    """Warns nobody."""


class CudaGraphStep:
    """Calls `compute`, always the same one. It must not synchronise with the device, and everything else that it reads
    must keep its address.

    The warm-up calls are ordinary steps, and capturing computes nothing: no step is lost or repeated. When the capture
    fails, `warn` gets a sentence and every call computes directly. A graph's memory stays reserved as long as this
    object lives. Graphs with the same `pool` share memory and must not run concurrently.
    """

    def __init__(self, pool: torch.cuda._POOL_HANDLE | None = None, warn: Warn = silent) -> None:
        self._pool = pool
        self._warn = warn
        self._inputs: tuple[Example, Tensor, Tensor] | None = None
        self._example: Callable[[], Example | None] = lambda: None  # the one whose tensors are in the inputs
        self._calls = 0
        self._stream: torch.cuda.Stream | None = None  # one for all calls: freed memory belongs to its stream
        self._captured: tuple[torch.cuda.CUDAGraph, Tensor] | None = None  # with its output
        self._failed = False

    def another(self) -> CudaGraphStep:
        """One for another computation."""
        return CudaGraphStep(self._pool, self._warn)

    def __call__(self, compute: Compute, example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
        """The result of `compute`, as a tensor of its own."""
        if self._inputs is None:
            self._inputs = map_tensors(lambda parts: _like(parts[0]), example), noise_BTC.clone(), sigma_B.clone()
        inputs = self._inputs
        if self._example() is not example:  # the passes of one sound have the same
            map_tensors(lambda parts: _copy(*parts), inputs[0], example)
            self._example = weakref.ref(example)
        inputs[1].copy_(noise_BTC)
        inputs[2].copy_(sigma_B)
        if not has_own_memory(noise_BTC.device):
            return compute(*inputs)
        with torch.cuda.device(noise_BTC.device):  # streams and graphs are created on the current device
            return self._on_gpu(compute, inputs)

    def _on_gpu(self, compute: Compute, inputs: tuple[Example, Tensor, Tensor]) -> Tensor:
        self._calls += 1
        if self._calls <= _WARM_UP:
            return self._warm_up(compute, inputs)
        if self._captured is None and not self._failed:
            try:
                self._captured = self._capture(compute, inputs)
            except RuntimeError as error:
                self._failed = True
                self._warn(
                    f"the CUDA graph could not be captured, and operations are launched one by one: {_cause(error)}"
                )
        if self._captured is None:
            return compute(*inputs)
        graph, output = self._captured
        graph.replay()
        return output.clone()  # the next replay overwrites it

    def _warm_up(self, compute: Compute, inputs: tuple[Example, Tensor, Tensor]) -> Tensor:
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream, current = self._stream, torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            output = compute(*inputs)
        current.wait_stream(stream)
        return output

    def _capture(self, compute: Compute, inputs: tuple[Example, Tensor, Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        # When a capture fails, torch leaves its stream current; the outer context does not.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool=self._pool):
            output = compute(*inputs)
        return graph, output


class CudaGraphSteps:
    """A `CudaGraphStep` for each computation and each shape of its inputs, kept from one use to the next.

    For the passes of the sampler: all previews of a run share their graphs. What is computed must not change, and keeps
    the model in memory as long as this object lives. The graphs share memory.
    """

    def __init__(self, warn: Warn = silent) -> None:
        self._warn = warn
        self._steps: dict[Hashable, tuple[CudaGraphStep, Compute]] = {}
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None

    def static(self, key: Hashable, compute: Compute) -> Compute:
        """The same computation on static inputs; functions with equal keys must compute the same."""

        def call(example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
            shapes = tuple((tensor.shape, tensor.dtype) for tensor in distinct_tensors([example]))
            parts = example.keep_BT, example.reference_BRC, example.reference_middles_BR, example.video
            kinds = tuple(map(type, parts))
            full_key = key, kinds, shapes
            if full_key not in self._steps:
                self._steps[full_key] = CudaGraphStep(self._pool, self._warn), compute
            step, first = self._steps[full_key]  # a graph reads what the first function refers to
            return step(first, example, noise_BTC, sigma_B)

        return call


def _like(tensor: Tensor) -> Tensor:
    """A tensor of its own that, like `tensor`, holds one sample where the whole batch shares it."""
    return _once(tensor).clone().expand_as(tensor)


def _copy(target: Tensor, source: Tensor) -> Tensor:
    _once(target).copy_(_once(source) if target.stride() == source.stride() else source)
    return target


def _once(tensor: Tensor) -> Tensor:
    """Without a batch axis that repeats one sample."""
    return tensor[:1] if tensor.stride(0) == 0 else tensor


def _cause(error: BaseException) -> str:
    """The first error of a chain, its first line: ending a failed capture raises another."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
