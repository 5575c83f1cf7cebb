"""Stopping a run between two of its steps.

Whoever starts a run gives it a function that says whether it shall stop: a signal handler's flag, a client's wish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from sonolora.core.errors import SonoloraError

_P = ParamSpec("_P")


def never() -> bool:
    """For a run that nobody stops."""
    return False


class StopRequestedError(Exception):
    """The run was asked to stop; raised where it can be continued from."""


@dataclass(frozen=True)
class CancelToken:
    """Passed to whatever can stop. `should_stop` stays true once it is true."""

    should_stop: Callable[[], bool] = never

    def check(self) -> None:
        """Raise `StopRequestedError` if the run shall stop."""
        if self.should_stop():
            raise StopRequestedError

    def after(self, report: Callable[_P, object]) -> Callable[_P, None]:
        """A callback for the end of each step: it reports, then checks."""

        def step_done(*args: _P.args, **kwargs: _P.kwargs) -> None:
            report(*args, **kwargs)
            self.check()

        return step_done


class InterruptedRunError(SonoloraError):
    """The run was asked to stop. It has saved its state if training had begun; otherwise `step` is None.

    `command`: the one whose `--resume` continues it.
    """

    def __init__(self, folder: Path, step: int | None, steps: int, command: str = "train") -> None:
        self.step = step
        super().__init__(
            "stopped before training began; start it again"
            if step is None
            else f"stopped at step {step} of {steps}; nothing is lost. "
            f"Continue with: sonolora {command} --resume {folder}"
        )
