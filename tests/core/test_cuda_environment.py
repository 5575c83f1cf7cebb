"""What is set for CUDA before torch is loaded, and how much memory pinning then takes."""

from __future__ import annotations

import sys

import pytest

from sonolora.core import cuda_environment
from sonolora.core.cuda_environment import allocator_options, configure_cuda, pinned_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="expandable segments are for Linux")
@pytest.mark.parametrize(
    ("torch", "options"),
    [((2, 13), "expandable_segments:True,pinned_max_round_threshold_mb:1"), ((2, 12), "expandable_segments:True")],
)
def test_defaults(monkeypatch, torch, options):
    monkeypatch.setattr(cuda_environment, "_torch_version", lambda: torch)
    environment = {}
    configure_cuda(environment)
    assert environment == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_ALLOC_CONF": options}
    assert allocator_options(environment) == options


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
def test_what_the_user_set_stays(name):
    environment = {name: "max_split_size_mb:64", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    before = dict(environment)
    configure_cuda(environment)
    assert environment == before
    assert allocator_options(environment) == "max_split_size_mb:64"


def test_torch_has_the_version_that_is_compared():
    assert cuda_environment._torch_version() >= (2, 11)


@pytest.mark.parametrize(
    ("size", "environment", "taken"),
    [
        (5 << 20, {}, 8 << 20),
        (8 << 20, {}, 8 << 20),
        (5 << 20, {"PYTORCH_ALLOC_CONF": "pinned_max_round_threshold_mb:1"}, 5 << 20),
        (700 << 10, {"PYTORCH_ALLOC_CONF": "pinned_max_round_threshold_mb:1"}, 1 << 20),
    ],
)
def test_memory_that_pinning_takes(size, environment, taken):
    assert pinned_bytes(size, environment) == taken
