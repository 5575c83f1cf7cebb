"""Devices of different sizes, and devices that take no more runs, with workers that play a part."""

from __future__ import annotations

from dataclasses import replace

import uvloop

from sonolora.core.errors import InputError
from sonolora.server.jobs.records import State
from sonolora.server.placing.local_placer import LocalPlacer

SIZES = {"cpu": 12.0, "auto": 80.0}


class Sized(LocalPlacer):
    """Says how large its devices are."""

    async def capacity(self):
        return [replace(slot, gb=SIZES[slot.name]) for slot in await super().capacity()]


def test_each_run_gets_a_device_that_holds_it(served):
    served.settings = replace(served.settings, devices=tuple(SIZES))
    served.placer = lambda changed: Sized("tiny", tuple(SIZES), changed)
    needs = {}

    async def memory(request, body):
        assert body["number_of_steps"] == 150
        if needs[request.id] is None:
            raise InputError.of("rank", "is too odd")
        return needs[request.id]

    served.memory = memory
    small, large, larger, too_large, odd = (served.add(part) for part in ("wait", "wait", "done", "done", "done"))
    needs |= {small: 8.0, large: 40.0, larger: 41.0, too_large: 81.0, odd: None}

    async def run():
        async with served.running():
            await served.in_hand(small)
            await served.in_hand(large)
            assert served.workers.active == {small: "cpu", large: "auto"}
            results = [(await served.done(id)).result for id in (too_large, odd)]
            assert served.store.request(larger).state == State.QUEUED
            served.store.request_cancel(small)
            await served.done(small)
            assert served.store.request(larger).state == State.QUEUED, "it waits for the large device"
            served.store.request_cancel(large)
            await served.done(larger)
            return results

    refused, wrong = uvloop.run(run())
    assert (refused.status, refused.body["detail"][0]["type"]) == (422, "does_not_fit")
    assert refused.error.startswith("it needs 81.0 GB of memory on a device, and the largest has 80 GB. Lower rank")
    assert (wrong.status, wrong.error) == (422, "is too odd")
    assert served.goes(too_large) == served.goes(odd) == []


def test_a_drained_device_gets_no_more_runs(served):
    async def run():
        async with served.running():
            await served.in_hand(moving)
            served.store.drains.add("cpu", move=True)
            await served.until(lambda: served.kinds(moving) == ["started", "interrupted"])
            await served.until(lambda: served.workers.slots[0].drained)
            assert served.store.request(moving).state == State.QUEUED
            served.store.drains.remove("cpu")
            # Not before its worker has said so: what the end of the test stops has begun.
            await served.until(lambda: len(served.kinds(moving)) == 3)
            assert served.kinds(moving)[2] == "resumed"

    served.settings = replace(served.settings, devices=("cpu",))
    moving = served.add("wait")
    uvloop.run(run())
