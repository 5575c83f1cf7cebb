"""When states and evaluations are due, by a simulated clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sonolora.planning.run_settings import RunSettings
from sonolora.runs.training_loop import TrainingLoop

STEP, STATE = 0.010, 0.002  # seconds; of a state what the host waits for, its copy on the device


class Simulated:
    """A run whose steps, evaluations and states take their time on a clock of its own."""

    def __init__(self, steps, evaluation, **settings):
        self.now = 0.0
        self.spent = {"step": 0.0, "evaluation": 0.0, "state": 0.0}
        self.states, self.evaluations, seconds = [], [], []
        trainer = SimpleNamespace(step_count=0, is_finite=lambda: True, gradient_norm=torch.ones(()), input_seconds=0.0)
        trainer.config = SimpleNamespace(steps=steps, learning_rate_at=lambda step: 1e-4)  # noqa: ARG005
        trainer.preserves = lambda step: False  # noqa: ARG005
        self.trainer = trainer

        def step():
            self.pass_time("step", STEP)
            trainer.step_count += 1
            return torch.ones(1)

        def evaluate(step, with_previews=True):
            if not with_previews:
                return
            self.evaluations.append(step)
            seconds.append(evaluation)
            self.pass_time("evaluation", evaluation)

        def save():
            self.states.append((trainer.step_count, self.now))
            self.pass_time("state", STATE)

        trainer.step = step
        run_settings = RunSettings(device="cpu", **settings)
        self.loop = TrainingLoop(
            SimpleNamespace(settings=run_settings),
            trainer,
            SimpleNamespace(
                evaluate=evaluate,
                seconds=seconds,
                seconds_to_come=lambda step: 0.0,  # noqa: ARG005
                device=torch.device("cpu"),
                evaluation=SimpleNamespace(
                    is_due=lambda step: step % run_settings.preview_steps == 0, is_over=lambda: False
                ),
            ),
            SimpleNamespace(evaluated=set(), add=lambda *_, **__: None),
            SimpleNamespace(phase=lambda *_: None, advance=lambda *_, **__: None, remaining=lambda *_: None),
            SimpleNamespace(check=lambda: None),
            SimpleNamespace(save=save, busy=False),
            clock=lambda: self.now,
        )
        self.evaluate = evaluate

    def pass_time(self, what, seconds):
        self.now += seconds
        self.spent[what] += seconds

    def run(self):
        self.loop.take_steps()
        self.evaluate(self.trainer.step_count)  # the last one follows the loop
        return self


@pytest.mark.parametrize(("steps", "evaluation"), [(2000, 0.3), (2000, 0.5), (20_000, 0.5), (20_000, 4.0)])
def test_all_but_steps_takes_less_than_a_tenth(steps, evaluation):
    run = Simulated(steps, evaluation).run()
    assert run.spent["step"] == pytest.approx(STEP * steps)
    assert run.spent["evaluation"] + run.spent["state"] < 0.1 * run.now
    assert run.evaluations[0] == 0 and run.evaluations[-1] == steps
    assert all(step % 500 == 0 for step in run.evaluations)


def test_evaluations_between_are_rendered_when_there_is_time():
    run = Simulated(4000, 0.2).run()
    assert run.evaluations == [0, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000]
    assert Simulated(4000, 1.0).run().evaluations == [0, 2000, 4000]


def test_a_number_of_steps_is_kept_whatever_it_takes():
    assert Simulated(30, 9.0, preview_every=10).run().evaluations == [0, 10, 20, 30]
    assert [step for step, _ in Simulated(30, 9.0, checkpoint_every=12).run().states] == [12, 24, 30]


def test_states_are_due_by_the_time_spent_in_training():
    run = Simulated(10_000, 5.0).run()
    steps = [step for step, _ in run.states]
    assert steps[-1] == 10_000
    assert all(2990 < later - earlier <= 3010 for earlier, later in zip([0, *steps[:-2]], steps[:-1], strict=True))


def test_a_state_waits_for_the_one_before_it():
    simulated = Simulated(10_000, 0.1)
    simulated.loop.writer.busy = True
    assert [step for step, _ in simulated.run().states] == [10_000]
