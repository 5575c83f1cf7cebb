"""Where training examples stay: shared tensors are moved once, and the host takes what the device has no room for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sonolora.conditioning import Example, Video, distinct_tensors, move_examples
from sonolora.core.errors import InputError
from sonolora.ltx.weights.base import find_base
from sonolora.modes.v2a import V2A
from sonolora.runs import example_placement
from sonolora.runs.example_placement import example_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("gpu", "host", "place"), [(100, 0, CUDA), (99, 96, CPU), (99, 95, None)])
def test_they_are_on_the_gpu_if_they_fit_and_else_on_the_host(gpu, host, place, monkeypatch):
    """Beside everything else there; pinned memory comes in powers of two."""
    monkeypatch.setattr(example_placement, "count_needs", lambda *_, **__: SimpleNamespace(peak=40))
    monkeypatch.setattr(example_placement, "available_bytes", lambda device: gpu if device == CUDA else host)
    run = SimpleNamespace(base=find_base("tiny"), mode=V2A, request=None, settings=None, members=1)
    sizes = [10, 10, 20, 20]
    if place is None:
        with pytest.raises(InputError, match=r"training_data_url: the training examples take .* give fewer"):
            example_device(run, CUDA, sizes, "training_data_url", "give fewer")
    else:
        assert example_device(run, CUDA, sizes, "training_data_url", "give fewer") == place


def test_tensors_that_clips_share_are_moved_once():
    contexts = torch.zeros(1, 2, 3), torch.zeros(1, 4, 5)
    video = Video(torch.ones(1, 2, 3), torch.ones(1, 3, 2), contexts[1])
    examples = [Example(torch.ones(1, 6, 7), contexts[0], video=video) for _ in range(3)]
    moved = move_examples(examples, torch.device("meta"))
    assert len({id(one.context_BSD) for one in moved}) == len({id(one.video.context_BSD) for one in moved}) == 1
    assert len({id(one.latents_BTC) for one in moved}) == 3
    assert all(tensor.is_meta for tensor in distinct_tensors(moved))
    assert len(list(distinct_tensors(moved))) == len(list(distinct_tensors(examples))) == 3 + 2 + 2
