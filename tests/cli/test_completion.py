"""Completion of commands, modes and options, as a shell asks for it."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_this_program(sonolora, shell):
    done = sonolora("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert f"_SONOLORA_COMPLETE=complete_{shell}" in done.out and "sonolora" in done.out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sonolora tr", {"train"}),
        ("sonolora train audio-extend-", {"audio-extend-suffix", "audio-extend-prefix"}),
        ("sonolora train t2a --block", {"--block-offload"}),
        ("sonolora serve --queue", {"--queue-limit"}),
    ],
)
def test_bash_completes(sonolora, monkeypatch, line, expected):
    monkeypatch.setenv("_SONOLORA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    assert set(sonolora().out.split()) == expected


def test_it_installs_itself(sonolora, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    done = sonolora("completion", "fish", "--install")
    assert done.code == 0
    assert "_SONOLORA_COMPLETE" in (tmp_path / ".config" / "fish" / "completions" / "sonolora.fish").read_text()


def test_other_shells_are_refused(sonolora):
    done = sonolora("completion", "tcsh")
    assert (done.code, done.err) == (2, "shell: 'tcsh' is not one of bash, zsh, fish, powershell, pwsh\n")
