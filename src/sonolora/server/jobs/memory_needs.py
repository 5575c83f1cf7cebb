"""How much memory a request needs on a device, for placers whose devices differ. The assistant counts it."""

from __future__ import annotations

from typing import Any

from sonolora.planning.sweep_plan import WITHOUT
from sonolora.server.jobs.assistant_process import Assistant
from sonolora.server.jobs.records import Kind, Request
from sonolora.server.settings import EMBEDDED_BASE, ServerSettings


class MemoryNeeds:
    def __init__(self, settings: ServerSettings, assistant: Assistant) -> None:
        self._settings, self._assistant = settings, assistant

    async def __call__(self, request: Request, body: dict[str, Any]) -> float:
        """In GB; 0 for the embedded base, which any device can hold. Raises `InputError` as the run would.

        To generate a sound takes less than to train with the defaults of its mode, which is what is counted then.
        """
        base = request.options.get("base", self._settings.base)
        if base == EMBEDDED_BASE:
            return 0.0
        settings = {**self._settings.run_settings(request.mode), **request.options.get("settings", {})}
        if request.kind == Kind.GENERATE:
            body, settings = {}, {name: settings[name] for name in ("weights", "block_offload")}
        task = {"task": "memory", "mode": request.mode, "body": body, "data": "", "base": base, "settings": settings}
        if "sweep" in request.options:
            task["sweep"] = request.options["sweep"]
            task["settings"] = {name: value for name, value in settings.items() if name not in WITHOUT}
        return float((await self._assistant(task))["gb"])
