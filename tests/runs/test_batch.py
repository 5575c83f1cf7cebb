"""More than one clip a step: a run, and what is counted for it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from run_support import begin, eval_losses_of

from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.modes.t2a import T2A
from sonolora.planning.allocations import Allocations
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench.synthetic import synthetic_trainer
from sonolora.planning.work_counts import Step, Tokens, step_bytes
from sonolora.training.step_phases import marks

BATCH = 3  # of the two clips that there are
CPU = torch.device("cpu")


def test_a_run_with_more_clips_a_step_than_there_are(dataset, body, settings, tmp_path):
    """How it continues is tested with the engine."""
    data = tmp_path / "data"
    data.mkdir()
    for clip in ("clip0.wav", "clip1.flac"):
        shutil.copy(dataset / clip, data)
    body = {**body, "training_data_url": str(data)}
    lora = begin("t2a", body, replace(settings, batch_size=BATCH), tmp_path / "out")
    assert Checkpoint.open(lora).metadata["batch_size"] == str(BATCH)
    losses = eval_losses_of(tmp_path / "out")
    assert losses[12] < losses[0]


def test_what_a_step_keeps_is_counted_for_every_clip():
    shape = BaseShape.find("tiny").with_layers(2)
    step = Step(T2A.lora_targets, 8, Tokens(26), 3)
    counted = step_bytes(shape, step, "cpu")
    trainer, model = synthetic_trainer(shape, 2, step, CPU)
    trainer.step()
    with Allocations("cpu") as live:
        before, forward, *_ = marks(trainer, model, lambda: live.now, 1)
    assert forward - before == pytest.approx(counted.activations, rel=0.01)
    assert counted.activations > 2.5 * step_bytes(shape, replace(step, batch_size=1), "cpu").activations
