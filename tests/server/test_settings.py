"""The server's settings: what stands in docs/server.md, and the names of earlier versions."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from sonolora.core.errors import InputError, SonoloraError
from sonolora.core.setting_field import described
from sonolora.planning.run_settings import RunSettings
from sonolora.server.placing import slurm_placer
from sonolora.server.settings import ServerSettings, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "server.md"


def settings_table() -> str:
    """As it stands in the page."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for name, default, known in described(ServerSettings):
        shown = "" if default is None else f"`{json.dumps(default)}`"
        choices = f" ({', '.join(known.choices)})" if known.choices else ""
        lines.append(f"| `{name}` | {shown} | {known.help}{choices} |")
    return "\n".join(lines)


def test_the_page_has_every_setting_with_its_default():
    assert settings_table() in PAGE.read_text("utf-8"), f"put this into docs/server.md:\n\n{settings_table()}"


def test_the_example_of_the_page_is_taken(tmp_path):
    text = PAGE.read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(text)
    (tmp_path / "server.toml").write_text(text)
    load_settings(tmp_path)


def test_settings_of_runs_are_those_of_runs():
    for name, default, known in described(RunSettings):
        if name in (served := {each: rest for each, *rest in described(ServerSettings)}):
            assert served[name] == [default, known]


@pytest.mark.parametrize("name", ["stream_blocks", "block_offload"])
def test_block_offload_by_both_names(tmp_path, name):
    (tmp_path / "server.toml").write_text(f"{name} = true\n")
    assert load_settings(tmp_path).run_settings("t2a")["block_offload"] is True
    assert load_settings(tmp_path, block_offload=False).block_offload is False


def test_the_file_is_named_where_it_is_wrong_and_the_option_where_that_is(tmp_path):
    (tmp_path / "server.toml").write_text("queue_limit = 0\n")
    with pytest.raises(SonoloraError, match=r"server\.toml: queue_limit: must be at least 1"):
        load_settings(tmp_path)
    with pytest.raises(InputError, match=r"^attempts: must be at least 1"):
        load_settings(tmp_path, queue_limit=1, attempts=0)
    with pytest.raises(InputError, match=r"^port: Input should be a valid integer"):
        load_settings(tmp_path, queue_limit=1, port="x")


def test_runs_get_the_settings_of_their_mode(tmp_path):
    settings = load_settings(tmp_path, v2a_video="frozen-cached", weights="nf4")
    assert settings.run_settings("v2a")["v2a_video"] == "frozen-cached"
    assert "v2a_video" not in settings.run_settings("t2a")
    assert RunSettings(**settings.run_settings("t2a")).weights == "nf4"


@pytest.mark.parametrize(("options", "words"), [("cluster=local,foo", "'foo' is not NAME=VALUE"), ("a=b", "no `srun`")])
def test_slurm_is_looked_for_before_the_server_starts(monkeypatch, options, words):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(slurm_placer.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(SonoloraError, match=words):
        slurm_placer.check_slurm(options)
