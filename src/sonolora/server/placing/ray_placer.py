"""Runs on the nodes of a Ray cluster: one actor per run, with a GPU and the memory of its card, or a node without GPUs.

In: the address of a cluster that needs a token. Out: slots, which are the cards of its nodes. A node says how much
memory its cards have together by the custom resource `gpu_gb`. The actor is not restarted: the server counts attempts
and places anew. Each attempt has a folder of its own, as a node that Ray has given up may still be at work: below the
run's folder that all nodes share, or, where the run is copied to an object store, on the node's own disk.

Ray's own queue is not used: the server gives a node no more runs than it has cards, so it knows what waits for what.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sonolora.core.errors import SonoloraError
from sonolora.server.placing.attempt_folders import begin_attempt
from sonolora.server.placing.placer import ENDINGS, Run, Slot, WorkerDiedError
from sonolora.server.placing.ray_actor import DIED, RunActor

GPU_GB = "gpu_gb"  # the custom resource
_STOP_SECONDS = 5.0  # for a node to say that it has killed a process
_AGAIN_SECONDS = 1.0  # before a node that cannot be reached for now is asked again

logger = logging.getLogger(__name__)


def check_ray() -> None:
    """Raise `SonoloraError` unless Ray is installed and asks for a token."""
    if importlib.util.find_spec("ray") is None:
        raise SonoloraError("--placer ray needs Ray: pip install 'sonolora[ray]'")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise SonoloraError(
            "--placer ray needs RAY_AUTH_MODE=token in the environment of the server and of every `ray start`: "
            "without it whoever reaches the cluster's ports can run programs there. Make a token with "
            "`ray get-auth-token --generate`, and copy ~/.ray/auth_token to every node"
        )


@dataclass
class Placed:
    """A run on a node. `seen`: how many of its events have been read."""

    actor: Any
    node: str
    seen: int = 0


@dataclass(frozen=True)
class _Card:
    """What a slot asks of its node."""

    node_id: str
    node: str
    gpus: int
    gb: float


class RayPlacer:
    def __init__(self, address: str) -> None:
        self._address = address
        self._cards: dict[str, _Card] = {}

    async def __aenter__(self) -> Self:
        """Raises `SonoloraError` when there is no cluster."""
        await asyncio.to_thread(_connect, self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        await asyncio.to_thread(ray.shutdown)

    async def capacity(self) -> list[Slot]:
        import ray

        self._cards = _cards(await asyncio.to_thread(ray.nodes))
        return [Slot(name, free=True, gb=card.gb) for name, card in self._cards.items()]

    async def start(self, run: Run, attempt: int) -> Placed:
        card = self._cards.get(run.slot)
        if card is None:
            raise WorkerDiedError(f"{run.slot} is not in the cluster any more")
        command = dict(run.command)
        if "folder" in command:
            command["folder"] = str(await asyncio.to_thread(begin_attempt, Path(command["folder"]), attempt))
        return Placed(await asyncio.to_thread(_place, card, command), card.node)

    async def lines(self, handle: Placed) -> AsyncIterator[dict[str, Any]]:
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        while True:
            try:
                events = await asyncio.wrap_future(handle.actor.lines.remote(handle.seen).future())
            except ActorUnavailableError:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            except RayError as error:
                logger.info("the run on %s was lost: %s", handle.node, error)
                raise WorkerDiedError(
                    f"the run on {handle.node} was lost: the node or its Ray process ended"
                ) from error
            for event in events:
                handle.seen += 1
                is_last = event["event"] in (*ENDINGS, DIED)
                if is_last:
                    await asyncio.to_thread(ray.kill, handle.actor)
                if event["event"] == DIED:
                    raise WorkerDiedError(f"{event['how']} on {handle.node}")
                yield event
                if is_last:
                    return

    async def stop(self, handle: Placed, save: bool) -> None:
        import ray

        answer = asyncio.wrap_future(handle.actor.stop.remote(save).future())
        if save:
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # `lines` has the same fault
            return
        await asyncio.wait({answer}, timeout=_STOP_SECONDS)
        await asyncio.to_thread(ray.kill, handle.actor)


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(address=address, namespace="sonolora", log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SonoloraError(f"there is no Ray cluster at {address}, or it has another token: {error}") from error


def _place(card: _Card, command: Mapping[str, Any]) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor: Any = (
        ray.remote(RunActor)
        .options(
            num_cpus=0 if card.gpus else 1,
            num_gpus=card.gpus,
            resources={GPU_GB: card.gb} if card.gpus and card.gb else None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(card.node_id, soft=False),
            max_restarts=0,
        )
        .remote("auto" if card.gpus else "cpu", dict(command))
    )
    actor.begin.remote()
    return actor


def _cards(nodes: list[dict[str, Any]]) -> dict[str, _Card]:
    """The slots of the nodes that are alive, by name. A node with neither GPUs nor CPUs, such as the head, has none."""
    alive = [node for node in nodes if node["Alive"]]
    names = Counter(_name(node) for node in alive)
    cards = {}
    for node in alive:
        id, name, resources = node["NodeID"], _name(node), node["Resources"]
        if names[name] > 1:
            name = f"{name}-{id[:6]}"
        gpus = int(resources.get("GPU", 0))
        for index in range(gpus):
            cards[f"{name}/gpu{index}"] = _Card(id, name, 1, resources.get(GPU_GB, 0.0) / gpus)
        if not gpus and resources.get("CPU", 0) >= 1:
            cards[f"{name}/cpu"] = _Card(id, name, 0, 0.0)
    return cards


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("NodeName") or node["NodeManagerHostname"])
