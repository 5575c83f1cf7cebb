"""The endpoints that train several LoRAs at once and keep the best: our own, one for each mode.

In: the request of the mode, with lists of learning rates and ranks. Out: a job for the workers, with its plan.
"""

from __future__ import annotations

from functools import partial
from types import GenericAlias
from typing import Annotated, Any

from pydantic import Field, create_model

from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.sweep_plan import MAX_MEMBERS, read_sweep
from sonolora.server.api.schemas import SweepOutput
from sonolora.server.endpoints.endpoint import Endpoint, Job

APP = "sonolora/trainer"
_DEFAULTS: dict[str, list[Any]] = {"learning_rate": [1e-4, 2e-4, 5e-4], "rank": [32]}
_EVERY_PAIR = "A LoRA is trained for each pair of a learning rate and a rank."


def _request(mode: Mode) -> type[TrainRequest]:
    annotated: Any = Annotated
    fields: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        one = mode.request.model_fields[name]
        values = GenericAlias(list, (annotated[(one.annotation, *one.metadata)],))
        described = f"Several values. {_EVERY_PAIR} {one.description}"
        fields[name] = values, Field(default, min_length=1, max_length=MAX_MEMBERS, description=described)
    keep_all = Field(False, description="Train all LoRAs to the end, instead of ending the weaker half.")
    held_out = Field(
        None,
        ge=0.001,  # OpenAPI 3.0 knows exclusive bounds in another form than JSON schema
        description="Clips, or a share, kept out of training to compare the LoRAs on; by default as the server has it.",
    )
    return create_model(
        f"{mode.request.__name__}Sweep",
        __base__=mode.request,
        __doc__=f"{mode.request.__name__} with several learning rates and ranks. It renders no previews.",
        keep_all=(bool, keep_all),
        held_out=(float | None, held_out),
        **fields,
    )


def _job(request: Any, mode: Mode) -> Job:
    plan, _ = read_sweep(mode, request.model_dump(), keep_all=request.keep_all)
    held_out = {} if request.held_out is None else {"held_out": request.held_out}
    notes = ["validation: no effect: a sweep renders no previews"] if request.validation else []
    return Job(mode.name, options={"sweep": plan.as_json(), "settings": held_out}, notes=notes)


def _endpoint(mode: Mode) -> Endpoint:
    return Endpoint(
        app=APP,
        path=f"{mode.name}/sweep",
        request=_request(mode),
        output=SweepOutput,
        job=partial(_job, mode=mode),
        summary=f"several LoRAs at once, of which the best is kept; {mode.summary}",
        category="training",
        noun="sweep",
        outputs="The best LoRA and how all of them stood.",
        invalid="Invalid training data.",
        schema_prefix="SonoloraTrainer",
    )


SWEEPS = tuple(map(_endpoint, MODES.values()))
