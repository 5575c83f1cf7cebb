"""Starting a run: the only place that knows the order of everything.

In: a mode, a request, settings and an output folder. Out, in the folder: what `RunArtifacts` lists.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sonolora.core.atomic_files import atomic_write
from sonolora.core.cancellation import CancelToken, InterruptedRunError, StopRequestedError, never
from sonolora.core.determinism import deterministic
from sonolora.core.errors import InputError
from sonolora.core.progress import Progress
from sonolora.data.fetch import ANYWHERE, Sources
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.weights.distilled import TRAINING_NOTE
from sonolora.ltx.weights.stored_tensor import precision_note, stored_precision
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.memory_fit import check_fit
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import SweepPlan, check_settings
from sonolora.runs.artifacts import FROM_LORA, PREPARED, RECORD
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.prepare import prepare
from sonolora.runs.preview_columns import preview_columns
from sonolora.runs.run import Run
from sonolora.runs.run_folder import exclusive_use, make_run_folder, remove_scratch
from sonolora.runs.start_up import announce
from sonolora.runs.sweep.sweep import require_held_out, sweep
from sonolora.runs.train import train


def start(
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    folder: Path,
    progress: Progress,
    should_stop: Callable[[], bool] = never,
    *,
    sources: Sources = ANYWHERE,
    networks: Networks | None = None,
    plan: SweepPlan | None = None,
) -> Path:
    """Carry out a whole run; returns the LoRA file's path.

    With a `plan` it is a sweep, whose LoRA is the best of its members. `networks`, which may have served other runs,
    take precedence over the base and device of the settings.
    Raises `InputError` for what does not fit the device's memory, before anything is read or written, and for a dataset
    that cannot be used (the folder then holds the report alone), `InterruptedRunError` when `should_stop` returned
    true, other `SonoloraError`s with the reason.
    """
    settings.check_mode(mode)
    if plan is not None:
        check_settings(settings)
    if settings.from_lora is not None:
        _check_rank(Path(settings.from_lora), request.rank)
    networks = networks or Networks.of(settings)
    with deterministic(settings.deterministic):
        return _start(mode, request, settings, folder, progress, should_stop, sources, networks, plan)


def _start(
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    folder: Path,
    progress: Progress,
    should_stop: Callable[[], bool],
    sources: Sources,
    networks: Networks,
    plan: SweepPlan | None,
) -> Path:
    announce(networks.device, progress, deterministic=settings.deterministic)
    members = 1 if plan is None else len(plan.members)
    if warning := check_fit(mode, request, settings, networks.base, networks.device, members=members):
        progress.warning(warning)
    precision = stored_precision(networks.base.checkpoint.tensors)
    if note := precision_note(precision):
        (progress.warning if precision.endswith("without scales") else progress.message)(note)
    if networks.base.distilled:
        progress.warning(TRAINING_NOTE)
    preview_columns(networks.base, request, settings)  # files that are no LoRAs are refused now
    make_run_folder(folder)
    cancel = CancelToken(should_stop)
    with exclusive_use(folder):
        remove_scratch(folder)
        run = Run.new(mode, request, settings, networks.base, folder, plan)
        if settings.from_lora is not None:
            run.artifacts.put(FROM_LORA, partial(_copy, Path(settings.from_lora)))
        try:
            prepared = prepare(run, networks, sources, progress, cancel)
        except StopRequestedError:
            raise InterruptedRunError(folder, None, request.number_of_steps) from None
        if plan is not None:
            require_held_out(prepared)
        run.artifacts.put(PREPARED, prepared.save)
        run.artifacts.put_json(RECORD, run.record.as_json())
        return (train if plan is None else sweep)(run, prepared, networks, progress, cancel)


def _check_rank(path: Path, rank: int) -> None:
    """Raise `InputError` for a LoRA that a run of this rank cannot go on from."""
    if not path.is_file():
        raise InputError.of("from_lora", f"there is no file {path}")
    ranks = [update.rank for update in open_lora(path).layers.values() if update.rank is not None]
    if ranks and max(ranks) > rank:
        raise InputError.of("from_lora", f"{path.name} has rank {max(ranks)}: give --rank {max(ranks)} or more")


def _copy(source: Path, path: Path) -> None:
    with atomic_write(path) as temporary:
        shutil.copyfile(source, temporary)
