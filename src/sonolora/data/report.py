"""What happened to every file of an archive, and what is odd about the dataset as a whole.

In: one status for each file. Out: JSON for the log, the debug archive and the error. A file
without a status is a bug in the program, found by `check_complete`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from sonolora.data.dataset_files import Files

Status = Literal["used", "fitted", "skipped", "ignored"]
Fact = float | int | str


@dataclass(frozen=True)
class FileReport:
    """The status of one file: `detail` says how or why, `facts` are figures such as seconds or LUFS."""

    file: str
    status: Status
    detail: str = ""
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)


class Report:
    """Collects the statuses. Each file gets exactly one; its warnings and facts may come before or after.

    Warnings of a file are about what is trained: those of a skipped or ignored file are dropped.
    """

    def __init__(self) -> None:
        self._files: dict[str, FileReport] = {}
        self._warnings: dict[str, list[str]] = {}
        self._facts: dict[str, dict[str, Fact]] = {}
        self._dataset_warnings: list[str] = []
        self.too_short: list[str] = []  # files that are skipped for their length alone
        self.held_out: tuple[str, ...] = ()  # names of the clips that are not trained on
        self.held_out_note = ""  # which, or why none
        self.base: Mapping[str, str] = {}  # what the data was encoded with: name, fingerprint, precision of the weights

    def used(self, file: str, detail: str = "") -> None:
        self._add(FileReport(file, "used", detail))

    def fitted(self, file: str, how: str) -> None:
        self._add(FileReport(file, "fitted", how))

    def skipped(self, file: str, reason: str, *, too_short: bool = False) -> None:
        self._add(FileReport(file, "skipped", reason))
        if too_short:
            self.too_short.append(file)

    def ignored(self, file: str, reason: str) -> None:
        self._add(FileReport(file, "ignored", reason))

    def warn(self, file: str, *texts: str) -> None:
        if texts:
            self._warnings.setdefault(file, []).extend(texts)

    def warn_of_dataset(self, *texts: str) -> None:
        """Warnings that are about no single file."""
        self._dataset_warnings.extend(texts)

    def measured(self, file: str, **facts: Fact) -> None:
        self._facts.setdefault(file, {}).update(facts)

    def as_json(self) -> dict[str, Any]:
        """`summary`: number of files by status and of warnings; `warnings`: of the dataset; `held_out`: names of the
        clips that are not trained on, and a sentence; `files`: sorted by name; `too_short`: names of the files that
        are skipped for their length alone; `base`, if it is known.
        """
        return {
            **({"base": dict(self.base)} if self.base else {}),
            "summary": self._summary(),
            "warnings": list(self._dataset_warnings),
            "too_short": sorted(self.too_short),
            "held_out": {"clips": list(self.held_out), "note": self.held_out_note},
            "files": [
                asdict(replace(entry, warnings=self._kept_warnings(entry), facts=self._facts.get(name, {})))
                for name, entry in sorted(self._files.items())
            ],
        }

    def check_complete(self, files: Files) -> None:
        """AssertionError with the files that have no status, or a warning and no status."""
        known = {*files.names, *files.ignored, *self._warnings}
        if missing := sorted(known - self._files.keys()):
            raise AssertionError(f"no status for {', '.join(missing)}")

    def _summary(self) -> dict[str, int]:
        counts = Counter(entry.status for entry in self._files.values())
        warnings = sum(len(self._kept_warnings(entry)) for entry in self._files.values())
        return {
            **{status: counts[status] for status in get_args(Status)},
            "warnings": warnings + len(self._dataset_warnings),
        }

    def _kept_warnings(self, entry: FileReport) -> tuple[str, ...]:
        return tuple(self._warnings.get(entry.file, ())) if entry.status in ("used", "fitted") else ()

    def _add(self, entry: FileReport) -> None:
        if earlier := self._files.get(entry.file):
            raise ValueError(f"{entry.file} is already {earlier.status}, now it is {entry.status}")
        self._files[entry.file] = entry
