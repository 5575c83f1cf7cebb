"""How many CPU threads torch uses, and how they wait. To be called before torch is loaded.

By default the threads of OpenMP spin while they wait for one another. Beside other programs that costs more than the
work itself: a thread that waits for one that is not running burns its whole time slice. And OpenMP does not know the
CPU quota of a container: it starts threads that the kernel then throttles. What the user has set stays as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_CGROUPS = Path("/sys/fs/cgroup")


def configure_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Passive waiting, and no more threads than the CPU quota allows; in child processes, too."""
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        environment["GOMP_SPINCOUNT"] = "0"
    if not any(name in environment for name in COUNTS):
        quota = cpu_quota()
        # The affinity mask needs nothing: OpenMP and MKL respect it.
        if quota is not None and quota < usable_cpus():
            environment["OMP_NUM_THREADS"] = str(max(1, math.ceil(quota)))


def usable_cpus() -> int:
    """CPUs that this process may run on, by its affinity mask."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(cgroups: Path = _CGROUPS, memberships: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs that the control groups of this process allow, of version 1 or 2; None without a limit.

    A group's limit holds for everything below it, so the smallest on the way up counts.
    """
    quotas = [quota for folder in _folders(cgroups, memberships) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(cgroups: Path, memberships: Path) -> Iterator[Path]:
    """The folders of the CPU controller, from this process's own group up to the root."""
    with suppress(OSError, ValueError):  # not Linux, or a line of no known form
        for line in memberships.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            roots = [cgroups / controllers, cgroups / "cpu"] if controllers else [cgroups, cgroups / "unified"]
            # In a container the path may be the host's, of which only the root is mounted.
            own = PurePosixPath(path.lstrip("/"))
            yield from (root / group for root in roots for group in (own, *own.parents))


def _quota(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    return None
