"""What a run is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sonolora.ltx.weights.base import Base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import SweepPlan
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
    def new(
        cls,
        mode: Mode,
        request: TrainRequest,
        settings: RunSettings,
        base: Base,
        folder: Path,
        sweep: SweepPlan | None = None,
    ) -> Run:
        """A run that starts now."""
        settings = replace(settings, sigma_density=settings.sigma_density or mode.sigma_density)
        plan = None if sweep is None else sweep.as_json()
        record = RunRecord.new(mode.name, request.saved(), asdict(settings), base.fingerprint, plan)
        return cls(mode, request, settings, base, record, RunArtifacts(folder))

    @property
    def folder(self) -> Path:
        """For messages about the run as a whole."""
        return self.artifacts.folder

    @property
    def sigma_density(self) -> str:
        """What noise levels are drawn from: as asked for, or what suits the mode."""
        return self.settings.sigma_density or self.mode.sigma_density

    @property
    def sweep(self) -> SweepPlan | None:
        """The plan of a sweep; None for a run of one LoRA."""
        return None if self.record.sweep is None else SweepPlan.of(self.record.sweep)

    @property
    def members(self) -> int:
        """How many LoRAs are trained at once."""
        return 1 if self.sweep is None else len(self.sweep.members)
