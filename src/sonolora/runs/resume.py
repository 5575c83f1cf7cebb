"""Continuing a run from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sonolora import __version__
from sonolora.core.atomic_files import remove_half_written
from sonolora.core.cancellation import CancelToken, never
from sonolora.core.determinism import deterministic
from sonolora.core.errors import CheckpointError, DamagedFileError, InputError, SonoloraError
from sonolora.core.progress import Progress
from sonolora.data.prepared import Prepared
from sonolora.modes import find_mode
from sonolora.modes.request import TrainRequest, parse
from sonolora.planning.memory_fit import check_fit
from sonolora.planning.run_settings import RunSettings, UnknownSettingError, read_settings
from sonolora.runs.artifacts import PREPARED, RECORD, START_AGAIN, RunArtifacts
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.run import Run
from sonolora.runs.run_folder import exclusive_use
from sonolora.runs.run_record import RunRecord
from sonolora.runs.start_up import announce
from sonolora.runs.sweep.sweep import sweep
from sonolora.runs.train import train


def resume(
    folder: Path,
    progress: Progress,
    should_stop: Callable[[], bool] = never,
    *,
    networks: Networks | None = None,
    **changed: Any,
) -> Path:
    """Continue a run from its newest state, to the result that it would have had; raises as `start` does.

    `changed`: settings other than before, which may be `base`, `device`, `gradient_checkpointing`,
    `checkpointed_blocks` and `block_offload`. The last three do not change the result; between a GPU and a CPU it
    differs by their precision.
    """
    artifacts = RunArtifacts(folder)
    record = artifacts.record()
    mode, settings = find_mode(record.mode), _settings(record, artifacts, changed)
    networks = networks or Networks.of(settings)
    if networks.base.fingerprint != record.base_fingerprint:
        raise CheckpointError(f"this run was started with another base than {networks.base.name}")
    announce(networks.device, progress, deterministic=settings.deterministic)
    with exclusive_use(folder), deterministic(settings.deterministic):
        remove_half_written(folder)
        run = Run(mode, _request(record, artifacts), settings, networks.base, record, artifacts)
        try:
            prepared = Prepared.load(artifacts.path(PREPARED))
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}. {START_AGAIN}") from error
        if warning := check_fit(mode, run.request, settings, networks.base, networks.device, members=run.members):
            progress.warning(warning)
        carry_on = train if run.sweep is None else sweep
        return carry_on(run, prepared, networks, progress, CancelToken(should_stop))


def _request(record: RunRecord, artifacts: RunArtifacts) -> TrainRequest:
    try:
        return parse(find_mode(record.mode).request, record.request)
    except InputError as error:
        raise DamagedFileError(f"{artifacts.path(RECORD)} is damaged: request: {error}. {START_AGAIN}") from error


def _settings(record: RunRecord, artifacts: RunArtifacts, changed: dict[str, Any]) -> RunSettings:
    # A captured step is bound to its device and to its memory there; uncaptured it is the same step.
    uncaptured = {"cuda_graph": False} if changed else {}
    try:
        settings = read_settings(record.settings, **uncaptured | changed)
        return TypeAdapter(RunSettings).validate_json(json.dumps(asdict(settings)), strict=True)
    except UnknownSettingError as error:
        raise SonoloraError(
            f"{artifacts.folder} was started by Sonolora {record.sonolora_version} with settings that {__version__} "
            f"does not have ({error}): continue it with that version"
        ) from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, ("settings", *fault["loc"])))
        raise DamagedFileError(
            f"{artifacts.path(RECORD)} is damaged: {where}: {fault['msg']}. {START_AGAIN}"
        ) from error
    except (InputError, TypeError) as error:
        raise DamagedFileError(f"{artifacts.path(RECORD)} is damaged: settings: {error}. {START_AGAIN}") from error
