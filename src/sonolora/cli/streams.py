"""Standard output and error of the command, when nobody reads them or the disk is full.

Standard output is a result: that it cannot be written ends the command with an exit code. Standard error is progress
and advice: what cannot be written there is dropped, and a run goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sonolora.core.errors import SonoloraError


class ReaderLeftError(SonoloraError):
    """Nobody reads standard output any more, as with `| head -1`."""


class OutputFailedError(SonoloraError):
    """Standard output cannot be written."""


class _Stream:
    """A text stream that tells `failed` what cannot be written; everything else is the stream's own."""

    def __init__(self, stream: Any, failed: Callable[[Any, OSError], None]) -> None:
        self._stream, self.failed = stream, failed
        self.refused: SonoloraError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        try:
            self.failed(self._stream, error)
        except SonoloraError as refused:
            self.refused = refused
            raise


def _refuse(stream: Any, error: OSError) -> None:
    _discard(stream)
    if isinstance(error, BrokenPipeError):
        raise ReaderLeftError("nobody reads standard output") from error
    raise OutputFailedError(f"standard output could not be written: {error.strerror}") from error


def _drop(stream: Any, error: OSError) -> None:
    if isinstance(error, BrokenPipeError):  # a full disk may have room again
        _discard(stream)


def _discard(stream: Any) -> None:
    """What is buffered, and all that comes, goes nowhere: the interpreter flushes once more at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Within it `sys.stdout` and `sys.stderr` fail as described, and what is buffered is written at the end."""
    before = sys.stdout, sys.stderr
    # None where the caller has closed them: then nothing is written, as by every Python program.
    results = _Stream(sys.stdout, _refuse) if sys.stdout else None
    sys.stdout = results
    sys.stderr = sys.stderr and _Stream(sys.stderr, _drop)
    try:
        yield
        if results is not None:
            results.flush()
            if results.refused is not None:  # swallowed by a library that tries out whether a stream takes text
                raise results.refused
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def droppable_output() -> Iterator[None]:
    """Within it standard output is advice, too: for a command whose work goes on when nobody reads it."""
    stream = sys.stdout
    if not isinstance(stream, _Stream):
        yield
        return
    before, stream.failed = stream.failed, _drop
    try:
        yield
    finally:
        stream.failed = before
