"""How many threads, and how they wait, by what the user has set and what the control groups allow."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sonolora.core import threads
from sonolora.core.threads import configure_threads, cpu_quota, usable_cpus

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


@pytest.fixture(autouse=True)
def _no_quota(monkeypatch):
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)


def configured(**given):
    configure_threads(given)
    return given


def test_waiting_is_passive():
    assert configured() == PASSIVE


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_waiting_stays_as_the_user_has_set_it(name):
    assert configured(**{name: "1"}) == {name: "1"}


@pytest.mark.parametrize(
    ("quota", "count"), [(0.5, "1"), (1.0, "1"), (1.5, "2"), (3.0, "3"), (8.0, None), (None, None)]
)
def test_no_more_threads_than_the_quota_allows(monkeypatch, quota, count):
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads, "usable_cpus", lambda: 8)
    assert configured().get("OMP_NUM_THREADS") == count
    assert configured(OMP_NUM_THREADS="5")["OMP_NUM_THREADS"] == "5"
    assert "OMP_NUM_THREADS" not in configured(MKL_NUM_THREADS="5")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone has affinity masks")
def test_the_affinity_mask_counts():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cpus() == len(before)


def groups(folder, membership, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    (folder / "self").write_text(f"{membership}\n")
    return cpu_quota(folder, folder / "self")


def test_version_2(tmp_path):
    limits = {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "400000 100000"}
    assert groups(tmp_path, "0::/a/b", limits) == 1.5, "the limit above counts for those below"


def test_version_2_in_a_container(tmp_path):
    assert groups(tmp_path, "0::/", {"cpu.max": "200000 100000"}) == 2


def test_version_1(tmp_path):
    limits = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
    }  # fmt: skip
    assert groups(tmp_path, "9:memory:/m\n3:cpu,cpuacct:/docker/x\n0::/", limits) == 2.5


def test_version_1_in_a_container_that_sees_the_path_of_its_host(tmp_path):
    limits = {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}
    assert groups(tmp_path, "3:cpu:/docker/of/the/host", limits) == 0.5


def test_the_quota_of_another_controller_does_not_count(tmp_path):
    assert groups(tmp_path, "9:memory:/m", {"memory/cpu.max": "1 100000", "m/cpu.max": "1 100000"}) is None


@pytest.mark.parametrize("membership", ["0::/a", "nonsense", ""])
def test_without_limits(tmp_path, membership):
    assert groups(tmp_path, membership, {"a/cpu.max": "max 100000"}) is None
    assert cpu_quota(tmp_path, tmp_path / "none") is None


def test_torch_takes_the_threads(tmp_path):
    """In a process of its own: torch reads the environment when it is loaded."""
    code = (
        "from sonolora.core import threads\n"
        "threads.cpu_quota, threads.usable_cpus = lambda: 1.0, lambda: 2\n"
        "threads.configure_threads()\n"
        "import torch\n"
        "print(torch.get_num_threads())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in threads.COUNTS}
    child = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert child.stdout == "1\n", child.stderr
