"""The host's memory: how much of it a run may take."""

from __future__ import annotations

import psutil


def host_available_bytes() -> int:
    """Bytes that programs can still get without swapping."""
    return int(psutil.virtual_memory().available)
