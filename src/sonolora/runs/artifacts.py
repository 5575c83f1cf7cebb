"""What a run makes, by name: put here when it is made, read here by whoever wants it.

In: a run's folder. Out: its outputs. Nothing else knows where in the folder an output lies, so that outputs can be kept
elsewhere: the first six methods are all that touches the disk, the rest is made of them.
Light to import, so that a command or the server can ask what a folder holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sonolora.core.atomic_files import OutputError, atomic_write, write_json, writing
from sonolora.core.errors import DamagedFileError, SonoloraError
from sonolora.runs.run_record import RunRecord
from sonolora.training.metrics import metrics_line, parse_metrics, until_step

LORA = "lora.safetensors"
BEST = "best.safetensors"  # the state of the lowest held-out loss, once it is better than the base beyond chance
FROM_LORA = "from_lora.safetensors"  # the LoRA that training began with
EVALUATION = "evaluation.json"
SWEEP = "sweep.json"  # the standings of a sweep
SWEEP_PICTURE = "sweep.png"  # its curves, at its end
CONFIG = "config.json"
PREVIEW = "preview.wav"  # all previews of the last step, one after the other
DEBUG_ARCHIVE = "debug_dataset.zip"
REPORT = "report.json"
REPORT_PAGE = "report.html"
REPORT_MEDIA = "report"  # the folder of the page's sounds, videos and pictures
REPORT_MEDIA_INDEX = f"{REPORT_MEDIA}/clips.json"  # what the page shows of each clip
METRICS = "metrics.jsonl"
PREVIEWS = "previews"
PREVIEW_SOURCES = "previews/sources.json"  # what each is made from and compared with
RECORD = "run.json"
PATTERNS = "patterns.safetensors"  # of the clips, to tell copies of them by
PREPARED = "prepared.safetensors"  # what training needs of the data
START_AGAIN = "This run cannot continue: start it again in another folder"
_PREVIEW_INDEX = f"{PREVIEWS}/index.json"
_STATES = "checkpoints"
_STATE = re.compile(rf"{_STATES}/step-(\d+)\.safetensors")


@dataclass(frozen=True)
class Preview:
    """An entry of the index. `number`: of the validation entry, from 1; `kind`: `base` before training, else `lora`.

    `distilled`: with the distill LoRA, in its schedule.
    """

    step: int
    number: int
    prompt: str
    seed: int
    kind: Literal["base", "lora"]
    distilled: bool = False

    @property
    def _stem(self) -> str:
        return f"{PREVIEWS}/step-{self.step:06d}-{self.number}{'-distilled' if self.distilled else ''}"

    @property
    def sound(self) -> str:
        """The artifact with the sound."""
        return f"{self._stem}.wav"

    @property
    def picture(self) -> str:
        """The artifact with its waveform and spectrogram."""
        return f"{self._stem}.png"

    def at_strength(self, strength: str) -> str:
        """The artifact with the sound of the same at another strength of the LoRA."""
        return f"{self._stem}-strength-{strength}.wav"

    @property
    def film(self) -> str:
        """The artifact with the film and this sound, of previews that are made for one."""
        return f"{self._stem}.mp4"


_FIELDS = Preview.__match_args__


class RunDeletedError(SonoloraError):
    """The folder of a run was deleted while the run was at work."""

    def __init__(self) -> None:
        super().__init__("the folder of this run was deleted while it was in use: start the run again")


class RunArtifacts:
    """The outputs of the run in a folder. A name is a path below it, with `/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Have `write` make an output at a path; it must be atomic, as all writers of this package are.

        Raises `OutputError` when it cannot be written, `RunDeletedError` when the folder is gone.
        """
        path = self.path(name)
        with self._writing(path):
            if path.parent != self.folder:  # without parents: the folder itself must be there
                path.parent.mkdir(exist_ok=True)
            write(path)

    def append(self, name: str, text: str) -> None:
        """Add to the end of an output. Raises as `put` does."""
        path = self.path(name)
        with self._writing(path), path.open("a", encoding="utf-8") as file:
            file.write(text)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            with writing(path):
                yield
        except OutputError as error:
            if not self.folder.is_dir():
                raise RunDeletedError from error
            raise

    def remove(self, name: str) -> None:
        """Remove an output, if it is there."""
        self.path(name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> None:
        """Keep a damaged output under another name, under which nothing reads it."""
        self.path(name).replace(self.path(f"{name}.damaged"))

    def path(self, name: str) -> Path:
        """A file on this machine to read the output from, if there is one."""
        return self.folder / name

    def names(self, under: str) -> list[str]:
        """The outputs in a folder of them, sorted; without files that are still being written."""
        folder = self.folder / under
        if not folder.is_dir():
            return []
        return sorted(f"{under}/{path.name}" for path in folder.iterdir() if not path.name.startswith("."))

    def put_json(self, name: str, data: Any) -> None:
        """An output that is JSON."""
        self.put(name, partial(write_json, data=data))

    def record(self) -> RunRecord:
        """How the run was started. Raises `SonoloraError` when there is none, `DamagedFileError` when it is damaged."""
        path = self.path(RECORD)
        try:
            return RunRecord.parse(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SonoloraError(
                f"{self.folder} holds no run that can be continued (there is no {RECORD}): it stopped before training "
                "began, or is another folder. Start a run with: sonolora train MODE DATA --out DIR"
            ) from error
        except OSError as error:
            raise SonoloraError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DamagedFileError(f"{path} is damaged: {error}. {START_AGAIN}") from error

    def is_finished(self) -> bool:
        """Whether nothing is left to do: trained, evaluated at the last step, and all written. Raises as `record`."""
        record = self.record()
        request = record.request
        if record.sweep is not None:
            return all(name in self for name in (LORA, SWEEP_PICTURE))
        outputs = [LORA, *([PREVIEW] if request.get("validation") or PREVIEW_SOURCES in self else [])]
        evaluated = {line["step"] for line in self.metrics() if "train_eval_loss" in line}
        evaluation = self.evaluation() or {}
        last = evaluation.get("step") if evaluation.get("stopped_early") else request.get("number_of_steps")
        return last in evaluated and all(name in self for name in outputs)

    def evaluation(self) -> dict[str, Any] | None:
        """What held-out and training clips say, as docs/evaluation.md describes it; None without it or if damaged."""
        try:
            evaluation = json.loads(self.path(EVALUATION).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return evaluation if isinstance(evaluation, dict) else None

    def put_preview(
        self, preview: Preview, write_sound: Callable[[Path], object], write_picture: Callable[[Path], object]
    ) -> None:
        """A preview with its picture and its entry in the index."""
        self.put(preview.sound, write_sound)
        self.put(preview.picture, write_picture)
        others = [one for one in self.previews() if one.sound != preview.sound]
        entries = [
            {**asdict(one), "sound": Path(one.sound).name, "picture": Path(one.picture).name}
            for one in sorted([*others, preview], key=lambda one: (one.step, one.number, one.distilled))
        ]
        self.put_json(_PREVIEW_INDEX, entries)

    def previews(self) -> list[Preview]:
        """All previews by step and number. A run of version 0.1 has no index."""
        try:
            entries = json.loads(self.path(_PREVIEW_INDEX).read_bytes())
            # Runs of earlier versions do not say whether one is distilled.
            return [Preview(**{name: {"distilled": False, **entry}[name] for name in _FIELDS}) for entry in entries]
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # of a damaged index nothing is kept
            return []

    def put_state(self, step: int, write: Callable[[Path], object], *, keep: int) -> None:
        """A training state; all but the newest `keep` are removed."""
        self.put(f"{_STATES}/step-{step:06d}.safetensors", write)
        for _, old in self.states()[:-keep]:
            self.remove(old)

    def states(self) -> list[tuple[int, str]]:
        """The training states with their steps, the oldest first."""
        return sorted((int(match[1]), name) for name in self.names(_STATES) if (match := _STATE.fullmatch(name)))

    def begin_metrics(self, step: int) -> None:
        """Drop the lines of steps after this one, which will be done again."""
        text = until_step(self._metrics_text(), step)
        self.put(METRICS, partial(_write_text, text=text))

    def add_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line. ValueError for values that are not finite."""
        self.append(METRICS, metrics_line(step, values))

    def metrics(self) -> list[dict[str, Any]]:
        """All lines; see `sonolora.training.metrics`."""
        return parse_metrics(self._metrics_text())

    def _metrics_text(self) -> str:
        try:
            return self.path(METRICS).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_state(name: str) -> bool:
    """Whether the artifact is a training state."""
    return _STATE.fullmatch(name) is not None


def video_of(number: int) -> str:
    """The artifact with the video, and its sound, of clip number `number`; only where the clip has a picture."""
    return f"{REPORT_MEDIA}/{number:04d}.mp4"
