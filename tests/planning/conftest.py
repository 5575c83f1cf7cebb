"""The limits of this machine, measured in an instant."""

from __future__ import annotations

import pytest

from sonolora.planning.bench import machine_limits


@pytest.fixture(autouse=True, scope="module")
def _small_measurements():
    """Matrix products and copies that take milliseconds; on a CPU their speed is near that of large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(machine_limits._MATMUL_SIZE, "cpu", 512)
        patch.setitem(machine_limits._COPY_BYTES, "cpu", 1 << 24)
        yield
