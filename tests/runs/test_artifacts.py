"""What a run makes, by name: puts that are whole or not there, indexes that are right after an interruption."""

from __future__ import annotations

import json
from functools import partial

import pytest

from sonolora.core.atomic_files import OutputError, write_json
from sonolora.core.errors import SonoloraError
from sonolora.runs.artifacts import LORA, METRICS, PREVIEW, RECORD, Preview, RunArtifacts

RUN = {
    "sonolora_version": "0.1.0",
    "mode": "t2a",
    "request": {"number_of_steps": 100, "validation": []},
    "settings": {},
    "base_fingerprint": "0",
}


@pytest.fixture
def artifacts(tmp_path):
    return RunArtifacts(tmp_path)


def text(words):
    return lambda path: path.write_text(words)


def test_what_is_put_is_there_and_listed(artifacts, tmp_path):
    artifacts.put("report/0001.wav", text("a"))
    artifacts.put("report/0002.wav", text("b"))
    (tmp_path / "report" / ".x.part.wav").touch()
    assert artifacts.path("report/0001.wav").read_text() == "a"
    assert "report/0002.wav" in artifacts and "report/0003.wav" not in artifacts
    assert artifacts.names("report") == ["report/0001.wav", "report/0002.wav"]
    artifacts.remove("report/0001.wav")
    artifacts.remove("report/0001.wav")
    assert artifacts.names("report") == ["report/0002.wav"]
    assert artifacts.names("nowhere") == []


def test_a_put_that_fails_leaves_what_was_there(artifacts):
    artifacts.put_json(RECORD, RUN)
    with pytest.raises(ValueError, match="JSON"):
        artifacts.put_json(RECORD, {"x": float("nan")})
    assert artifacts.record().mode == "t2a"


def test_a_preview_that_is_rendered_again_has_one_entry(artifacts):
    for step, prompt in ((100, "b"), (0, "a"), (100, "c")):
        preview = Preview(step, 1, prompt, 42, "lora" if step else "base")
        artifacts.put_preview(preview, text("sound"), text("picture"))
    assert [(one.step, one.prompt) for one in artifacts.previews()] == [(0, "a"), (100, "c")]
    assert artifacts.previews()[1].sound == "previews/step-000100-1.wav"


@pytest.mark.parametrize("damaged", ["{", "[1]", '[{"step": 0}]', "null"])
def test_of_a_damaged_index_of_previews_nothing_is_kept(artifacts, tmp_path, damaged):
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "index.json").write_text(damaged)
    assert artifacts.previews() == []
    artifacts.put_preview(Preview(0, 1, "a", 42, "base"), text("sound"), text("picture"))
    assert len(artifacts.previews()) == 1


def test_old_states_are_removed_and_the_newest_kept(artifacts):
    for step in (998_000, 999_999, 1_000_000):
        artifacts.put_state(step, text("state"), keep=2)
    assert artifacts.states() == ["checkpoints/step-999999.safetensors", "checkpoints/step-1000000.safetensors"]


def test_metrics_of_steps_that_are_done_again_are_dropped(artifacts):
    artifacts.begin_metrics(0)
    for step in (10, 20, 30):
        artifacts.add_metrics(step, {"loss": step / 10})
    artifacts.append(METRICS, '{"step": 40, "lo')
    artifacts.begin_metrics(20)
    artifacts.add_metrics(30, {"loss": 5.0})
    assert [line["loss"] for line in artifacts.metrics()] == [1, 2, 5]


@pytest.mark.parametrize("line", ["", "{", "[]", "null", "7", '"step"', '{"loss": 1}', '{"step": []}', "\udcff"])
def test_a_damaged_line_of_metrics_is_left_aside(artifacts, tmp_path, line):
    lines = f'{{"step": 0, "loss": 1.0}}\n{line}\n{{"step": 10, "loss": 2.0}}\n'
    (tmp_path / METRICS).write_bytes(lines.encode("utf-8", "surrogateescape"))
    assert [one["step"] for one in artifacts.metrics()] == [0, 10]
    artifacts.begin_metrics(10)
    assert [one["step"] for one in artifacts.metrics()] == [0, 10]


def test_metrics_of_version_0_1_are_read_under_their_present_names(artifacts, tmp_path):
    (tmp_path / METRICS).write_text('{"step": 0, "grid_loss": 0.5, "grid_loss_by_sigma": {"0.125": 0.5}}\n')
    assert artifacts.metrics() == [{"step": 0, "train_eval_loss": 0.5, "train_eval_loss_by_sigma": {"0.125": 0.5}}]


def test_values_that_are_not_finite_are_no_metrics(artifacts):
    with pytest.raises(ValueError, match="JSON"):
        artifacts.add_metrics(10, {"loss": float("nan")})


@pytest.mark.parametrize("previews", [[], [{"prompt": "a"}]])
def test_a_run_is_finished_when_all_is_evaluated_and_written(artifacts, previews):
    artifacts.put_json(RECORD, {**RUN, "request": {"number_of_steps": 100, "validation": previews}})
    artifacts.put(LORA, text("lora"))
    artifacts.add_metrics(0, {"train_eval_loss": 2.0})
    assert not artifacts.is_finished()
    artifacts.add_metrics(100, {"train_eval_loss": 1.0})
    assert artifacts.is_finished() == (not previews)
    artifacts.put(PREVIEW, text("sound"))
    assert artifacts.is_finished()


def test_without_a_record_there_is_no_run(artifacts):
    with pytest.raises(SonoloraError, match="holds no run that can be continued"):
        artifacts.is_finished()
    with pytest.raises(SonoloraError, match="holds no run that can be continued"):
        RunArtifacts(artifacts.folder / "not-there").record()


DAMAGED = [
    ("", "EOF while parsing"),
    ("\udcff", "run.json is damaged"),
    ("[]", "run.json is damaged: Input should be an object"),
    ('{"mode": "t2a"}', "run.json is damaged: sonolora_version: Field required"),
    (json.dumps({**RUN, "request": [1]}), "run.json is damaged: request: Input should be an object"),
    (json.dumps({**RUN, "settings": None}), "run.json is damaged: settings: Input should be an object"),
]


@pytest.mark.parametrize(("content", "words"), DAMAGED)
def test_a_damaged_record_is_an_error_with_the_reason(artifacts, tmp_path, content, words):
    (tmp_path / RECORD).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SonoloraError, match=words):
        artifacts.record()


def test_what_cannot_be_written_is_named(artifacts, tmp_path):
    (tmp_path / "report").write_text("a file in the place of a folder")
    with pytest.raises(OutputError, match=r"report/0001\.json could not be written"):
        artifacts.put("report/0001.json", partial(write_json, data=1))
