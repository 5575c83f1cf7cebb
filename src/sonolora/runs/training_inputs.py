"""What a run and a sweep begin with: the frozen network, the data at its place, and the newest state.

In: a `Run`, its data, the networks. Out: the same, ready to train.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from sonolora.core.cancellation import CancelToken
from sonolora.core.errors import DamagedFileError
from sonolora.core.progress import Progress
from sonolora.data.prepared import Prepared
from sonolora.ltx.model.transformer import Transformer
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.cached_video import cache_videos
from sonolora.runs.example_placement import place_examples
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.run import Run

_T = TypeVar("_T")


def frozen_model(run: Run, networks: Networks) -> AbstractContextManager[Transformer]:
    """The part of the network that the run trains on."""
    one_way = run.settings.one_way_video
    return networks.transformer(video=run.mode.video and not one_way, one_way=one_way, policy=run.settings.policy)


def placed_data(run: Run, prepared: Prepared, networks: Networks, progress: Progress, cancel: CancelToken) -> Prepared:
    """The data where training reads it, with videos as the network takes them."""
    if run.settings.one_way_video:
        return cache_videos(run, prepared, networks, progress, cancel)
    prepared = place_examples(run, prepared, networks.device, progress)
    return prepared.with_reference_positions(run.settings.reference_positions)


def newest_state(artifacts: RunArtifacts, load: Callable[[Path], _T], progress: Progress) -> _T | None:
    """The newest state, loaded; None where there is none.

    A damaged one is set aside for the one before it; if there is none, its error is raised.
    """
    states = artifacts.states()
    for older, (step, name) in reversed(list(enumerate(states))):
        try:
            return load(artifacts.path(name))
        except DamagedFileError as error:
            if not older:
                raise DamagedFileError(
                    f"{error}. It is the only state: remove it, and the run starts again at step 0"
                ) from error
            artifacts.set_aside(name)
            progress.warning(f"{error}. It is set aside, and training continues from the state before step {step}")
    return None
