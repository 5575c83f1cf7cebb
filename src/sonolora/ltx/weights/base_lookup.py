"""A base by its fingerprint: on this machine, else from the object store, else from the Hugging Face hub.

In: a name and a fingerprint. Out: the base, which is called by that name, whatever this machine calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sonolora.core.errors import CheckpointError, SonoloraError
from sonolora.core.object_store import ObjectStore
from sonolora.core.progress import Progress
from sonolora.ltx.weights import stored_base
from sonolora.ltx.weights.base import BUILT_IN_NAMES, Base, find_base
from sonolora.ltx.weights.hub import HubId
from sonolora.ltx.weights.registry import registered

_GB = 1e9


def find_by_fingerprint(name: str, fingerprint: str, objects: ObjectStore, progress: Progress) -> Base:
    """Fetches the base if need be, which `progress` is told. Raises `SonoloraError` when it is nowhere."""
    for here in _here(name):
        if here.fingerprint == fingerprint:
            return replace(here, name=name)
    if (base := stored_base.fetched(fingerprint, name)) is not None:
        return base
    progress.phase("fetching the base", None)
    report = _Amounts(progress)

    def waiting() -> None:
        progress.message("another run on this node fetches the base: waiting for it")

    if (base := stored_base.fetch(fingerprint, name, objects, report, waiting)) is not None:
        return base
    if HubId.parse(name) is not None and name not in registered():
        progress.message(f"fetching the base {name} from the hub")
        base = find_base(name)
        if base.fingerprint == fingerprint:
            return base
        raise CheckpointError(f"the base {name} has changed on the hub: the server has {fingerprint}, not this one")
    raise SonoloraError(
        f"this node has no base with the fingerprint {fingerprint} ({name}), and {objects.address} has none. Where "
        f"it is, run: sonolora base publish {name} --files {objects.address}"
    )


def _here(name: str) -> Iterator[Base]:
    """The bases of this machine, that of this name first."""
    names = [*BUILT_IN_NAMES, *registered()]
    for one in sorted(names, key=lambda one: one != name):
        try:
            yield find_base(one)
        except SonoloraError:  # such as one whose files are gone
            continue


class _Amounts:
    """Reports a download as progress, in GB, and once in a while as a line."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._told = progress, -1

    def __call__(self, done: int, total: int) -> None:
        amount = f"{_in_gb(done)} of {_in_gb(total)} GB"
        self._progress.advance(amount, to=done * 100 // max(total, 1))
        if (tenths := done * 10 // max(total, 1)) > self._told:
            self._told = tenths
            self._progress.message(f"fetching the base, {amount}")


def _in_gb(size: int) -> str:
    return f"{size / _GB:.1f}" if size >= _GB / 10 else f"{size / _GB:.3f}"
