"""Pausing a run, sounds that go ahead of trainings, and a training that makes room: with workers that play a part."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import uvloop

from sonolora.server.jobs.records import Kind, NewRequest, State
from sonolora.server.settings import INTERRUPT


def add_sound(served, **options):
    """A request to generate, which the playing worker carries out at once."""
    new = NewRequest(
        endpoint="generate",
        mode="t2a",
        body={"training_data_url": "https://example.com/made"},
        key_id="k",
        kind=Kind.GENERATE,
        priority=-1,
        options={"samples": [{"prompt": "rain", "scale": 1.0, "seed": 1}], **options},
    )
    return served.store.add_request(new).id


def test_a_paused_run_saves_its_state_and_continues_when_it_is_resumed(served):
    id, other = served.add("wait"), served.add("done")

    async def run():
        async with served.running():
            await served.in_hand(id)
            served.store.pause(id, True)
            served.workers.wake()
            await served.done(other)  # which had waited for it
            paused = served.store.request(id)
            assert (paused.state, paused.paused, paused.attempts) == (State.QUEUED, True, 0)
            assert served.kinds(id) == ["started", "interrupted"]
            assert len(served.goes(id)) == 1
            served.store.pause(id, False)
            served.workers.wake()
            await served.until(lambda: "resumed" in served.kinds(id))

    uvloop.run(run())
    assert served.kinds(id)[2] == "resumed"


def test_sounds_wait_for_a_training_by_default(served):
    training = served.add("held")

    async def run():
        async with served.running():
            await served.in_hand(training)
            sound, later = add_sound(served), served.add("done")
            served.workers.wake()
            await asyncio.sleep(1.5)
            assert served.store.request(sound).state == State.QUEUED
            (served.folder(training) / "go on").touch()
            await served.done(later)
            return sound

    sound = uvloop.run(run())
    assert served.kinds(training) == ["started", "finished"]
    assert served.store.request(sound).finished < max(served.store.requests(), key=lambda one: one.finished).finished


def test_a_training_makes_room_and_continues(served):
    served.settings = replace(served.settings, generate_while_training=INTERRUPT)
    training = served.add("wait")

    async def run():
        async with served.running():
            await served.in_hand(training)
            sound = add_sound(served)
            served.workers.wake()
            result = await served.done(sound)
            await served.until(lambda: "resumed" in served.kinds(training))
            return result

    result = uvloop.run(run())
    assert result.result.status == 200
    assert result.result.body["samples"][0]["audio"]["file_name"] == "sample-001.wav"
    assert served.kinds(training)[:3] == ["started", "interrupted", "resumed"]
    assert served.store.request(training).attempts == 0


def test_the_worker_is_told_that_a_lora_is_gone(served):
    gone = "http://127.0.0.1:8000/files/gone/lora.safetensors"
    id = add_sound(served, loras=[{"path": gone}])

    async def run():
        async with served.running():
            return await served.done(id)

    uvloop.run(run())
    job = json.loads((served.folder(id) / "job.json").read_text())
    assert job["loras"] == [{"path": gone}] and job["sources"]["known"][gone] is None
