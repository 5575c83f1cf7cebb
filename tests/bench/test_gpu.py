"""The series that is meant for a card, in small on this machine: everything is measured, and nothing fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SERIES = Path(__file__).parents[2] / "bench" / "gpu.py"


@pytest.mark.slow
def test_the_series_in_small(tmp_path):
    command = [sys.executable, SERIES, "--quick", "--steps", "2", "--device", "cpu", "--name", "cpu", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    page = (tmp_path / "cpu.md").read_text()
    assert "Not measured" not in page
    assert "## Previews" in page
    assert "all cases agree" in page
    assert "stopped and resumed: the LoRAs are bit-identical" in page
    assert len((tmp_path / "cpu.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_what_is_measured_before_the_end_stays(tmp_path):
    command = [sys.executable, SERIES, "--quick", "--device", "cpu", "--name", "cpu", "--out", tmp_path]
    subprocess.run([*command, "--minutes", "0.5"], check=True, capture_output=True, text=True)
    page = (tmp_path / "cpu.md").read_text()
    assert "`python -m sonolora env`" in page
    assert "the time was up" in page
