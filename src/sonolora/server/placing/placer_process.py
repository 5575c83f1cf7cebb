"""A placer in a process of its own: Ray's library ends the process that uses it when it loses the head of its cluster.

    python -m sonolora.server.placing.placer_process ray 10.0.0.1:6379
    python -m sonolora.server.placing.placer_process slurm FOLDER --base ltx-2.3 --jobs 4 --options gpus_per_node=1

In: JSON lines on standard input. `{"id", "capacity": null}` and `{"id", "start": {fields of Run}, "attempt"}` are
answered by `{"id", "result"}` or `{"id", "died": how}`; `{"stop": handle, "save"}` is not answered. The result of a
start is a handle. Out: those, and each run's events, `{"handle", "event"}`, or `{"handle", "died": how}` after the
last. The server's side is `remote_placer`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from sonolora.core.errors import SonoloraError
from sonolora.server.placing.placer import Placer, Run, WorkerDiedError
from sonolora.server.placing.ray_placer import RayPlacer
from sonolora.server.placing.slurm_placer import SlurmPlacer

logger = logging.getLogger(__name__)


async def relay(placer: Placer[Any], commands: TextIO, out: TextIO) -> None:
    """Do what the commands say until they end."""
    handles: dict[int, Any] = {}
    tasks: set[asyncio.Task[None]] = set()

    def tell(**line: Any) -> None:
        with suppress(BrokenPipeError):  # the server is gone; so is the input, which ends this process
            out.write(json.dumps(line) + "\n")
            out.flush()

    async def follow(number: int, handle: Any) -> None:
        try:
            async for event in placer.lines(handle):
                tell(handle=number, event=event)
        except WorkerDiedError as error:
            tell(handle=number, died=str(error))
        finally:
            del handles[number]

    async def obey(command: dict[str, Any]) -> None:
        try:
            match command:
                case {"id": id, "capacity": _}:
                    tell(id=id, result=[asdict(slot) for slot in await placer.capacity()])
                case {"id": id, "start": run, "attempt": attempt}:
                    handles[id] = await placer.start(Run(**run), attempt)
                    tell(id=id, result=id)
                    begin(follow(id, handles[id]))
                case {"stop": number, "save": save} if number in handles:
                    await placer.stop(handles[number], save)
        except SonoloraError as error:
            tell(id=command.get("id"), died=str(error))
        except Exception as error:
            logger.exception("a command failed")
            tell(id=command.get("id"), died=f"it could not be placed: {error}")

    def begin(work: Any) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with placer:
        while line := await asyncio.to_thread(commands.readline):
            begin(obey(json.loads(line)))


def main() -> int:
    """Run the process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="sonolora.server.placing.placer_process")
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("ray").add_argument("address")
    slurm = kinds.add_parser("slurm")
    slurm.add_argument("folder", type=Path)
    slurm.add_argument("--base", required=True)
    slurm.add_argument("--jobs", type=int, default=1)
    slurm.add_argument("--options", default="")
    arguments = parser.parse_args()
    placer: Placer[Any]
    if arguments.kind == "ray":
        placer = RayPlacer(arguments.address)
    else:
        placer = SlurmPlacer(arguments.base, arguments.folder, arguments.jobs, arguments.options)
    logging.basicConfig(level=logging.WARNING)
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print goes to standard error
    try:
        asyncio.run(relay(placer, sys.stdin, out))
    except SonoloraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
