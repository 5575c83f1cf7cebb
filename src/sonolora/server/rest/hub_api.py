"""A finished run's model card, and its way to the Hugging Face hub.

In: a finished run. Out: Markdown with the hub's metadata; a repository with LoRA, configuration, previews and card.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio.to_thread
from pydantic import Field
from starlette.requests import Request

from sonolora import __version__
from sonolora.core.errors import InputError, SonoloraError
from sonolora.modes import MODES
from sonolora.modes.request import Body
from sonolora.planning.sweep_plan import AXES
from sonolora.runs.artifacts import RunArtifacts
from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.jobs import records
from sonolora.server.rest import run_view
from sonolora.server.rest.modes_api import TITLES
from sonolora.server.rest.operations import Operation
from sonolora.server.rest.runs_api import RunsApi

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_MAX_PREVIEWS = 2


class Push(Body):
    """Where to put a run's LoRA."""

    repo: str = Field(description="name/repository; it is made if there is none.")
    token: str = Field(min_length=1, description="With write access; used for this upload alone, and not kept.")
    private: bool = Field(True, description="Whether only you can see a new repository.")
    card: str = Field("", description="The model card; by default the one that /card returns.")


def operations(runs: RunsApi) -> list[Operation]:
    async def card(request: Request, _: None) -> Any:
        found = await runs.store.reading(_finished, runs, request)
        return {"card": await anyio.to_thread.run_sync(_card_of, runs, found)}

    async def push(request: Request, body: Push) -> Any:
        found = await runs.store.reading(_finished, runs, request)
        if not _REPOSITORY.fullmatch(body.repo):
            raise InputError.of("repo", f"{body.repo!r} is not of the form name/repository")
        text = body.card or await anyio.to_thread.run_sync(_card_of, runs, found)
        try:
            url = await anyio.to_thread.run_sync(_upload, runs, found, body, text)
        except SonoloraError as error:
            raise RejectedError(error_response(502, str(error))) from error
        return {"url": url}

    one = "/api/runs/{id}"
    return [
        Operation("GET", f"{one}/card", "The model card of a finished run, in Markdown.", card, returns="`card`."),
        Operation("POST", f"{one}/hub", "Upload LoRA, configuration, previews and card to the hub.", push, Push),
    ]


def _finished(runs: RunsApi, request: Request) -> records.Request:
    found = runs.find(request)
    if found.result is None or found.result.status >= 400 or "lora_file" not in found.result.body:
        raise RejectedError(error_response(409, "the run is not finished, so it has no LoRA"))
    return found


def _card_of(runs: RunsApi, found: records.Request) -> str:
    folder = runs.settings.run_folder(found.id)
    fields, sweep = runs.store.body(found.id) or {}, run_view.sweep(found, folder)
    if sweep is not None and (standings := sweep["standings"]):
        best = standings["members"][standings["best"]]
        fields |= {name: best[name] for name in AXES}
    return model_card(found, fields, RunArtifacts(folder))


def model_card(found: records.Request, fields: Mapping[str, Any], artifacts: RunArtifacts) -> str:
    """Markdown that says what the LoRA is, how to prompt it, and how it was trained."""
    title, subtitle = TITLES[found.mode]
    name = found.options.get("name") or found.id[:8]
    base = found.options.get("base", "")
    trigger = fields.get("trigger_phrase", "")
    request = MODES[found.mode].request
    parsed = request.model_validate({**fields, "training_data_url": fields.get("training_data_url") or "-"})
    losses = {row["step"]: row["train_eval_loss"] for row in artifacts.metrics() if "train_eval_loss" in row}
    lines = [
        "---",
        "library_name: ltx-video",
        *(["base_model: Lightricks/LTX-2.3"] if base != "tiny" else []),
        "tags: [lora, ltx-2.3, audio, " + found.mode + "]",
        *([f"instance_prompt: {_yaml(trigger)}"] if trigger else []),
        "---",
        "",
        f"# {name}",
        "",
        f"A LoRA for LTX-2.3, mode {found.mode} ({title.lower()}: {subtitle[0].lower()}{subtitle[1:]}).",
        ""
        if base != "tiny"
        else "\nIt was trained on the small base `tiny` for trying things out: it does not fit LTX-2.3.",
        "## Use",
        "",
        f"Begin the prompt with `{trigger}`, at strength 1."
        if trigger
        else "Prompt it in the words of its captions, at strength 1.",
        "In ComfyUI put `lora.safetensors` into `models/loras` and choose it in a LoraLoaderModelOnly node.",
        "",
    ]
    if prompts := [entry["prompt"] for entry in fields.get("validation", [])]:
        lines += ["Prompts of the previews:", "", *[f"- {prompt}" for prompt in prompts], ""]
    lines += [
        "## Training",
        "",
        "| | |",
        "|---|---|",
        f"| base | {base or 'LTX-2.3'} |",
        f"| steps | {parsed.number_of_steps} |",
        f"| rank | {parsed.rank} |",
        f"| learning rate | {parsed.learning_rate:g} |",
        f"| seconds of a clip | {parsed.clip_seconds:g} |",
    ]
    if "sweep" in found.options:
        lines.append(f"| chosen from | {len(found.options['sweep']['members'])} LoRAs of a sweep |")
    if len(losses) > 1:
        first, last = losses[min(losses)], losses[max(losses)]
        lines.append(f"| loss on training clips with fixed noise | {first:.4f} before, {last:.4f} after |")
    lines += ["", f"Trained with Sonolora {__version__}. `config.json` has every setting.", ""]
    return "\n".join(lines)


def _yaml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _upload(runs: RunsApi, found: records.Request, body: Push, card: str) -> str:
    """The address of the repository. `HF_ENDPOINT` says where the hub is. Raises `SonoloraError` with its reason."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    assert found.result is not None
    files: dict[str, Path] = {}
    for output in found.result.body.values():
        path = runs.storage.local(runs.own_address(output["url"])) if isinstance(output, dict) else None
        if path is not None and path.suffix != ".zip":
            files[path.name] = path
    artifacts = RunArtifacts(runs.settings.run_folder(found.id))
    last = max((one.step for one in artifacts.previews()), default=0)
    for one in artifacts.previews():
        if one.step == last and one.number <= _MAX_PREVIEWS and one.sound in artifacts:
            files[f"samples/preview-{one.number}.wav"] = artifacts.path(one.sound)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=body.token)
    try:
        url = api.create_repo(body.repo, private=body.private, exist_ok=True)
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        operations.append(CommitOperationAdd("README.md", card.encode()))
        api.create_commit(body.repo, operations, commit_message="LoRA trained with Sonolora")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason = {401: "the token is not valid", 403: "the token may not write there"}.get(status)
        raise SonoloraError(f"the hub refused the upload: {reason or error.server_message or error}") from error
    except (OSError, ValueError) as error:
        raise SonoloraError(f"the upload to the hub failed: {error}") from error
    return str(url)
