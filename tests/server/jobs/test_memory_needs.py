"""What a request needs on a device is what `sonolora estimate` counts for a card."""

from __future__ import annotations

import asyncio

import pytest
from shallow_base import write_shallow_base

from sonolora.core.errors import InputError
from sonolora.ltx.weights.base import BUILT_IN
from sonolora.modes import find_mode
from sonolora.planning.estimate import estimate
from sonolora.planning.run_settings import RunSettings
from sonolora.server.jobs import assistant
from sonolora.server.jobs.memory_needs import MemoryNeeds
from sonolora.server.jobs.records import Kind, Request, State
from sonolora.server.settings import ServerSettings


class Silent:
    def __getattr__(self, name):
        return lambda *_, **__: None


async def here(task):
    """The assistant, in this process."""
    return assistant._TASKS[task["task"]](task, Silent())


def request(kind=Kind.TRAIN, **options):
    fields = {"endpoint": "t2a", "mode": "t2a", "key_id": "k", "id": "i", "state": State.QUEUED, "created": 0.0}
    return Request(**fields, kind=kind, options=options)


def test_it_is_what_estimate_says(clips, tmp_path):
    """For a copy of the embedded base, which itself needs nothing worth counting."""
    settings = ServerSettings(tmp_path)
    needs = MemoryNeeds(settings, here)
    body = {"rank": 16, "audio_duration_seconds": 5.0, "number_of_steps": 100}
    assert asyncio.run(needs(request(), body)) == 0.0

    base = str(write_shallow_base(BUILT_IN / "tiny", tmp_path / "three", layers=3))
    counted = asyncio.run(needs(request(base=base), {**body, "training_data_url": "https://example.com/x.zip"}))
    mode = find_mode("t2a")
    asked = mode.request.model_validate({**body, "training_data_url": str(clips / "clips.zip")})
    run = RunSettings(base=base, **settings.run_settings("t2a"))
    assert counted == estimate(mode, asked, run, tmp_path, Silent(), card=80.0).needs.peak / 1e9
    assert asyncio.run(needs(request(Kind.GENERATE, base=base), {})) > 0.0
    rates = [1e-4 * number for number in range(1, 49)]  # so many that training needs more than encoding
    sweep = {"members": [{"learning_rate": rate, "rank": 16} for rate in rates], "keep_all": False}
    asked_for = {**body, "rank": [16], "learning_rate": rates}
    assert asyncio.run(needs(request(base=base, sweep=sweep), asked_for)) > counted
    with pytest.raises(InputError, match="rank"):
        asyncio.run(needs(request(base=base), {**body, "rank": -1}))
