"""Training states written beside training: the next steps run while the state before them goes to the disk.

In: a `Trainer`, and a function that writes a state. Out: the file, later. The values are copied to host memory, on a
GPU by a stream of its own into pinned memory, and written by a thread. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from sonolora.training.state import KEPT
from sonolora.training.trainer import Trainer

Write = Callable[[int, Mapping[str, Tensor]], object]
"""Writes the state of a step; called in the thread."""


class StateWriter:
    """Writes one state at a time; a context manager, on whose exit all is written."""

    def __init__(self, trainer: Trainer, write: Write, kept: Callable[[], Mapping[str, Tensor]] = dict) -> None:
        """`kept`: tensors that are written beside the trainer's state; they must not change afterwards."""
        self._trainer = trainer
        self._write = write
        self._kept = kept
        self._thread = ThreadPoolExecutor(1, "state")
        self._pending: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a state is still being written."""
        return self._pending is not None and not self._pending.done()

    def save(self) -> None:
        """Copy the present state and begin to write it, when the state before it is written.

        Raises what writing that one raised.
        """
        self.finish()
        copied = self._trainer.begin_state()
        kept = {f"{KEPT}{name}": tensor for name, tensor in self._kept().items()}
        self._pending = self._thread.submit(self._written, self._trainer.step_count, copied, kept)

    def _written(self, step: int, copied: Callable[[], Mapping[str, Tensor]], kept: Mapping[str, Tensor]) -> None:
        self._write(step, {**copied(), **kept})

    def finish(self) -> None:
        """Wait for the state that is being written. Raises what writing it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._thread.shutdown()
