"""The endpoints that train: one for each mode, and a second name of one."""

from __future__ import annotations

from collections.abc import Mapping

from sonolora.modes import MODES
from sonolora.server.api.schemas import TrainingOutput
from sonolora.server.endpoints.endpoint import Endpoint, Job

APP = "fal-ai/ltx23-trainer-v2"
# Paths below the app, and the modes that they train.
PATHS: Mapping[str, str] = {**{name: name for name in MODES}, "ic-lora/a2a": "a2a"}


def _endpoint(path: str, mode: str) -> Endpoint:
    return Endpoint(
        app=APP,
        path=path,
        request=MODES[mode].request,
        output=TrainingOutput,
        job=lambda _: Job(mode),
        summary=MODES[mode].summary,
        category="training",
        noun="training",
        outputs="The LoRA and the other outputs.",
        invalid="Invalid training data.",
        schema_prefix="Ltx23TrainerV2",
    )


TRAINING = tuple(_endpoint(path, mode) for path, mode in PATHS.items())
