"""What tests of runs share: followers of their progress, and how a run is started and stopped at a chosen moment."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
from pydantic import Field, create_model

from sonolora.core.cancellation import never
from sonolora.modes import MODES, find_mode
from sonolora.modes.request import parse
from sonolora.planning import needs
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.start import start

STEPS = 12


@contextmanager
def short_runs():
    """Within it modes take fewer steps than the published minimum of 100, and previews are sampled in 4 steps.

    The minimum is a rule of the request and not of training: tests/modes holds it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, mode in MODES.items():
            steps = (int, Field(STEPS, ge=1, le=20000))
            request = create_model(f"Short{mode.request.__name__}", __base__=mode.request, number_of_steps=steps)
            patch.setitem(MODES, name, replace(mode, request=request))
        patch.setattr(needs, "PREVIEW_STEPS", 4)
        yield


class Silent:
    """A `Progress` that shows nothing."""

    def phase(self, name, total): ...

    def advance(self, note="", *, to=None): ...

    def message(self, text): ...

    def warning(self, text): ...

    def metrics(self, step, values): ...

    def remaining(self, seconds): ...


class Recorded(Silent):
    """Keeps what it is told: phases, and messages and warnings alike."""

    def __init__(self):
        self.phases, self.messages, self.warnings = [], [], []

    def phase(self, name, total):  # noqa: ARG002
        self.phases.append(name)

    def message(self, text):
        self.messages.append(text)

    def warning(self, text):
        self.warnings.append(text)


class StopsAt(Silent):
    """Follows a run and, as `should_stop`, ends it at a step of a phase."""

    def __init__(self, phase="training", step=0):
        self._moment, self._now = (phase, step), ("", 0)

    def phase(self, name, total):  # noqa: ARG002
        self._now = (name, 0)

    def advance(self, note="", *, to=None):  # noqa: ARG002
        self._now = (self._now[0], self._now[1] + 1 if to is None else to)

    def __call__(self):
        return self._now[0] == self._moment[0] and self._now[1] >= self._moment[1]


def begin(mode, body, settings, folder, progress=None, should_stop=never, **options):
    """Start a run of the mode with this name; returns the LoRA's path."""
    mode = find_mode(mode)
    request = parse(mode.request, body)
    return start(mode, request, settings, folder, progress or Silent(), should_stop, **options)


def eval_losses_of(folder):
    """`train_eval_loss` of a run by step."""
    lines = RunArtifacts(folder).metrics()
    return {line["step"]: line["train_eval_loss"] for line in lines if "train_eval_loss" in line}
