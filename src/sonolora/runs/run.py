"""What a run is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sonolora.ltx.weights.base import Base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.run_record import RunRecord


@dataclass(frozen=True)
class Run:
    """Its mode, request, settings and base; how it was started, and where its outputs go."""

    mode: Mode
    request: TrainRequest
    settings: RunSettings
    base: Base
    record: RunRecord
    artifacts: RunArtifacts

    @classmethod
    def new(cls, mode: Mode, request: TrainRequest, settings: RunSettings, base: Base, folder: Path) -> Run:
        """A run that starts now."""
        settings = replace(settings, sigma_density=settings.sigma_density or mode.sigma_density)
        record = RunRecord.new(mode.name, request.saved(), asdict(settings), base.fingerprint)
        return cls(mode, request, settings, base, record, RunArtifacts(folder))

    @property
    def folder(self) -> Path:
        """For messages about the run as a whole."""
        return self.artifacts.folder

    @property
    def sigma_density(self) -> str:
        """What noise levels are drawn from: as asked for, or what suits the mode."""
        return self.settings.sigma_density or self.mode.sigma_density
