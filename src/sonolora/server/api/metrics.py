"""`/metrics` for Prometheus: the queue, the devices, what came of requests, time on devices by key, memory.

In: the store and the slots, read when somebody asks. Out: Prometheus's text format. deploy/grafana.json shows it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence

import psutil
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sonolora.server import clock
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.records import State
from sonolora.server.jobs.store import Store
from sonolora.server.placing.placer import Slot
from sonolora.server.settings import ServerSettings

Family = GaugeMetricFamily | CounterMetricFamily


class Metrics(Collector):
    def __init__(
        self,
        settings: ServerSettings,
        store: Store,
        keys: Keys,
        active: Callable[[], dict[str, str]],
        slots: Callable[[], Sequence[Slot]],
    ) -> None:
        self._settings, self._store, self._keys, self._active, self._slots = settings, store, keys, active, slots
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def text(self) -> bytes:
        """All metrics; raises `StoreError`."""
        return generate_latest(self._registry)

    def describe(self) -> list[Family]:
        """Nothing: their names are known when they are collected."""
        return []

    def collect(self) -> Iterator[Family]:
        now = clock.now()
        waiting = self._store.waiting()
        length = GaugeMetricFamily("sonolora_queue_length", "Requests that wait", labels=["kind"])
        age = GaugeMetricFamily("sonolora_queue_age_seconds", "How long the oldest has waited", labels=["kind"])
        for kind, number, oldest in waiting:
            length.add_metric([kind], number)
            age.add_metric([kind], now - oldest)
        yield from (length, age)

        active = self._active()
        devices = GaugeMetricFamily("sonolora_devices", "Devices by what they do", labels=["state"])
        states = [_state(slot, active) for slot in self._slots()]
        for state in ("busy", "free", "starting", "drained"):
            devices.add_metric([state], states.count(state))
        speed = GaugeMetricFamily("sonolora_steps_per_second", "Training steps a second", labels=["device"])
        for request in self._store.requests(state=State.RUNNING, limit=10_000):
            speed.add_metric([active.get(request.id, "")], request.progress.get("steps_per_second", 0.0))
        yield from (devices, speed)

        ended = CounterMetricFamily("sonolora_requests", "Requests that are done", labels=["mode", "status"])
        crashes = CounterMetricFamily("sonolora_crashes", "Attempts whose worker or node died", labels=["mode"])
        crashed: dict[str, int] = {}
        for mode, status, number, attempts in self._store.outcomes():
            if status is not None:
                ended.add_metric([mode, str(status)], number)
            crashed[mode] = crashed.get(mode, 0) + attempts
        for mode, attempts in crashed.items():
            crashes.add_metric([mode], attempts)
        names = {key.id: (key.name, key.owner) for key in self._keys.all()}
        used = CounterMetricFamily(
            "sonolora_device_seconds", "Time on devices of what is done", labels=["key", "owner"]
        )
        by_name: dict[tuple[str, str], float] = {}
        for key, _, _, seconds in self._store.used():
            name = names.get(key, (key, key))
            by_name[name] = by_name.get(name, 0.0) + seconds
        for name, seconds in by_name.items():
            used.add_metric(name, seconds)
        yield from (ended, crashes, used)

        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self._settings.folder)
        yield GaugeMetricFamily("sonolora_memory_used_bytes", "Memory in use on the server's machine", memory.used)
        yield GaugeMetricFamily("sonolora_memory_bytes", "Memory of the server's machine", memory.total)
        yield GaugeMetricFamily("sonolora_disk_free_bytes", "Free space on the server's disk", disk.free)


def _state(slot: Slot, active: dict[str, str]) -> str:
    if slot.name in active.values():
        return "busy"
    return "drained" if slot.drained else "free" if slot.ready else "starting"
