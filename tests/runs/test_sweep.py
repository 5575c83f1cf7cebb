"""A sweep as a whole: the better half goes on, the best LoRA is kept, and a resumed sweep gives the same files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from run_support import Silent, StopsAt
from safetensors.torch import load_file

from sonolora.core.cancellation import InterruptedRunError, never
from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.modes import find_mode
from sonolora.planning.sweep_plan import Member, SweepPlan, read_sweep
from sonolora.runs.artifacts import LORA, METRICS, RECORD, SWEEP, SWEEP_PICTURE, RunArtifacts
from sonolora.runs.resume import resume
from sonolora.runs.start import start
from sonolora.runs.sweep.standings import Standings, table

AXES = {"learning_rate": [1e-3, 3e-3], "rank": [8, 16]}
FILES = LORA, SWEEP


def begin_sweep(body, settings, folder, progress=None, should_stop=never, *, keep_all=False):
    mode = find_mode("t2a")
    plan, request = read_sweep(mode, body, keep_all=keep_all)
    return start(mode, request, settings, folder, progress or Silent(), should_stop, plan=plan)


@pytest.fixture(scope="module")
def sweep_settings(settings):
    return replace(settings, held_out=2, preview_every=None, checkpoint_every=3, evaluate_every=4)


@pytest.fixture(scope="module")
def swept(short_body, sweep_settings, tmp_path_factory):
    """The folder of a sweep of four members."""
    folder = tmp_path_factory.mktemp("sweep") / "out"
    begin_sweep({**short_body, **AXES}, sweep_settings, folder)
    return folder


def same_files(one, other):
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    lines = [RunArtifacts(folder).metrics() for folder in (one, other)]
    for line in (*lines[0], *lines[1]):
        line.pop("steps_per_second", None)
    changes = [[line for line in of if "held_out_change" in line] for of in lines]
    assert changes[0] == changes[1]


def test_half_of_the_members_end_at_each_rung_and_the_best_is_kept(swept):
    standings = json.loads((swept / SWEEP).read_text())
    assert standings["rungs"] == {"4": 2, "8": 1}
    assert sorted(one["steps"] for one in standings["members"]) == [4, 4, 8, 12]
    best = standings["members"][standings["best"]]
    assert best["steps"] == 12
    assert best["change"]["mean"] < 0, "it learnt something"
    first = [one["curve"][1][1] for one in standings["members"]]
    assert [one["steps"] > 4 for one in standings["members"]] == [change <= sorted(first)[1] for change in first]
    metadata = Checkpoint.open(swept / LORA).metadata
    assert (metadata["rank"], metadata["learning_rate"]) == (str(best["rank"]), str(best["learning_rate"]))
    tensors = load_file(swept / LORA)
    assert {one.shape[0] for name, one in tensors.items() if "lora_A" in name} == {best["rank"]}
    assert all(one.any() for name, one in tensors.items() if "lora_B" in name)
    assert (swept / SWEEP_PICTURE).read_bytes().startswith(b"\x89PNG")
    assert RunArtifacts(swept).is_finished()
    assert standings["summary"].startswith(f"Best of 4 LoRAs by step 12: rank {best['rank']}, learning rate ")
    assert len(table(standings).splitlines()) == 1 + 4 + 2
    lines = [line for line in RunArtifacts(swept).metrics() if "losses" in line]
    assert [(line["step"], len(line["losses"])) for line in lines] == [(10, 1), (12, 1)]
    assert all(line["loss"] == min(line["losses"].values()) for line in lines), "as whoever follows a run expects"


class Killed(BaseException):
    """Ends a process."""


class DiesAt(Silent):
    """Leaves a run as a kill does: no state is written on the way out."""

    def __init__(self, step):
        self._step = step

    def advance(self, note="", *, to=None):  # noqa: ARG002
        if to == self._step:
            raise Killed


@pytest.mark.parametrize("step", [4, 10])
def test_stopped_and_resumed_gives_the_same_files(short_body, sweep_settings, swept, tmp_path, step):
    stops = StopsAt(step=step)
    other_settings = replace(sweep_settings, checkpoint_every=5)
    with pytest.raises(InterruptedRunError) as stopped:
        begin_sweep({**short_body, **AXES}, other_settings, tmp_path, stops, stops)
    assert stopped.value.step == step
    resume(tmp_path, Silent())
    same_files(swept, tmp_path)


def test_killed_and_resumed_gives_the_same_files(short_body, sweep_settings, swept, tmp_path):
    with pytest.raises(Killed):
        begin_sweep({**short_body, **AXES}, sweep_settings, tmp_path, DiesAt(10))
    assert LORA not in RunArtifacts(tmp_path)
    assert [step for step, _ in RunArtifacts(tmp_path).states()] == [6, 9]
    resume(tmp_path, Silent())
    same_files(swept, tmp_path)
    assert (tmp_path / METRICS).read_text().count('"held_out_change"') == 3


def test_the_highest_rank_may_end_first(short_body, sweep_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Standings, "best_members", lambda self, count: self.training[:count])
    body = {**short_body, "learning_rate": [3e-3], "rank": [8, 16], "number_of_steps": 4}
    lora = load_file(begin_sweep(body, replace(sweep_settings, evaluate_every=2), tmp_path / "out"))
    assert {one.shape[0] for name, one in lora.items() if "lora_A" in name} == {8}


@pytest.mark.slow
def test_a_member_is_what_it_would_be_alone_to_rounding(short_body, sweep_settings, tmp_path):
    body = {**short_body, "learning_rate": [1e-3, 2e-3]}
    begin_sweep(body, sweep_settings, tmp_path / "sweep", keep_all=True)
    standings = json.loads((tmp_path / "sweep" / SWEEP).read_text())
    assert {one["steps"] for one in standings["members"]} == {12}
    best = standings["members"][standings["best"]]
    mode = find_mode("t2a")
    request = read_sweep(mode, body)[1].model_copy(update={"learning_rate": best["learning_rate"]})
    start(mode, request, sweep_settings, tmp_path / "alone", Silent())
    one, other = (load_file(tmp_path / folder / LORA) for folder in ("sweep", "alone"))
    for name, tensor in one.items():
        assert (tensor.float() - other[name].float()).norm() < 0.05 * other[name].float().norm(), name


def test_without_held_out_clips_there_is_no_sweep(short_body, settings, tmp_path):
    with pytest.raises(InputError, match="held-out clips, but no clips are held out of 4: there are fewer than 12"):
        begin_sweep({**short_body, **AXES}, settings, tmp_path)
    assert not (tmp_path / RECORD).exists()


def standings_of(*losses):
    """Of members with these losses on two clips, whose base has 1."""
    plan = SweepPlan(tuple(Member(1e-4, 1 + number) for number in range(len(losses))))
    standings = Standings(plan, [0, 1], torch.ones(2, 1))
    standings.add(10, torch.tensor(losses)[..., None])
    return standings


def test_a_diverged_member_is_last_and_said_to_be():
    standings = standings_of([float("nan"), 0.5], [0.9, 0.8], [0.7, 0.6])
    assert standings.best_members(2) == [1, 2]
    assert standings.best() == 2
    assert "diverged" in table(standings.as_json(20))
    again = Standings.of(standings.plan, [0, 1], standings.tensors())
    assert again.as_json(20) == standings.as_json(20)
    with pytest.raises(SonoloraError, match="all members of the sweep diverged by step 10"):
        standings_of([float("inf"), 1.0], [float("nan"), 1.0]).best()
