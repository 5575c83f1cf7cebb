"""Sounds from a LoRA, or from the base alone, over HTTP: one, or a sweep of prompts, strengths and seeds.

In: requests at /api/generations. Out: a request in the queue, ahead of trainings, whose samples appear one by one.
"""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from pydantic import Field
from starlette.requests import Request

from sonolora.core.errors import InputError
from sonolora.modes import find_mode
from sonolora.modes.request import Body, parse
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.server.jobs.active_job import GIVEN
from sonolora.server.jobs.records import INTERACTIVE, Kind, NewRequest
from sonolora.server.net.urls import data_url_fault
from sonolora.server.rest.modes_api import GENERATE_SETTINGS
from sonolora.server.rest.operations import Operation, access_of
from sonolora.server.rest.runs_api import CLIP, RunsApi

MAX_SAMPLES = 200


class NewGeneration(Body):
    """Samples: every prompt with every strength and every seed."""

    mode: str
    run: str | None = Field(None, description="The run whose LoRA is used; without one the base alone.")
    prompts: list[str] = Field(min_length=1, max_length=MAX_SAMPLES)
    scales: list[float] = Field(default=[1.0], min_length=1, max_length=MAX_SAMPLES, description="0 is the base alone.")
    seeds: list[int] = Field(default=[42], min_length=1, max_length=MAX_SAMPLES)
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Other fields of the mode's `generate`. With `dataset`, clip:NAME stands for a file of it.",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description=f"Of {', '.join(GENERATE_SETTINGS)}.")
    dataset: str | None = None
    name: str = ""


def operations(runs: RunsApi) -> list[Operation]:
    async def start(request: Request, body: NewGeneration) -> Any:
        key_id = access_of(request).key.id
        mode = find_mode(body.mode)
        count = len(body.prompts) * len(body.scales) * len(body.seeds)
        if count > MAX_SAMPLES:
            raise InputError.of("prompts", f"{count} samples are more than the {MAX_SAMPLES} of one request")
        if unknown := sorted(set(body.settings) - set(GENERATE_SETTINGS)):
            raise InputError.of("settings", f"unknown: {', '.join(unknown)}; there are {', '.join(GENERATE_SETTINGS)}")
        for scale in body.scales:
            GenerateSettings(scale=scale, **body.settings)
        lora, base = None, runs.settings.base
        if body.run is not None:
            lora, base = await runs.store.reading(runs.lora_of, request, body.run, "run")
        fields = dict(body.fields)
        for name in GIVEN:
            if name not in fields:
                continue
            value = str(fields[name])
            if value.startswith(CLIP) and body.dataset:
                dataset = await runs.store.reading(runs.find_dataset, request, body.dataset)
                fields[name] = await anyio.to_thread.run_sync(runs.adopt_clip, dataset, value, key_id)
            elif fault := data_url_fault(value):
                raise InputError.of(f"fields.{name}", fault)
        parse(mode.generation, {**fields, "prompt": body.prompts[0]})
        samples = [
            {"prompt": prompt, "scale": scale, "seed": seed}
            for prompt in body.prompts
            for seed in body.seeds
            for scale in body.scales
        ]
        new = NewRequest(
            endpoint="generate",
            mode=body.mode,
            body=fields,
            key_id=key_id,
            kind=Kind.GENERATE,
            priority=INTERACTIVE,
            options={
                "name": body.name.strip()[:120] or body.prompts[0][:60],
                "samples": samples,
                "loras": [] if lora is None else [{"path": lora}],
                "lora_run": body.run,
                "base": base,
                "settings": dict(body.settings),
            },
        )
        return await runs.enqueue(new)

    return [
        Operation(
            "POST",
            "/api/generations",
            "Generate samples: prompts x seeds x strengths. Look at it, follow and cancel it at /api/runs/{id}.",
            start,
            NewGeneration,
            returns="The request, with its `samples`.",
            status=201,
        ),
    ]
