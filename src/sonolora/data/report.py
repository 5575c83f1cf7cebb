"""What became of every file of an archive.

In: one verdict for each file, from whoever decides. Out: JSON for the log, the debug archive and the error. A file
without a verdict is a bug of the program, found by `check_complete`.
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
    """The verdict on one file: `detail` says how or why, `facts` are figures such as seconds or LUFS."""

    file: str
    status: Status
    detail: str = ""
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)


class Report:
    """Collects the verdicts. Each file gets exactly one; warnings and facts may come before it or after.

    Warnings are about what is trained on: those of a file that is left out or ignored are dropped.
    """

    def __init__(self) -> None:
        self._verdicts: dict[str, FileReport] = {}
        self._warnings: dict[str, list[str]] = {}
        self._facts: dict[str, dict[str, Fact]] = {}
        self.too_short: list[str] = []  # files that are left out for their length alone

    def used(self, file: str, detail: str = "") -> None:
        self._add(FileReport(file, "used", detail))

    def fitted(self, file: str, how: str) -> None:
        self._add(FileReport(file, "fitted", how))

    def skipped(self, file: str, why: str, *, too_short: bool = False) -> None:
        self._add(FileReport(file, "skipped", why))
        if too_short:
            self.too_short.append(file)

    def ignored(self, file: str, why: str) -> None:
        self._add(FileReport(file, "ignored", why))

    def warn(self, file: str, *texts: str) -> None:
        if texts:
            self._warnings.setdefault(file, []).extend(texts)

    def measured(self, file: str, **facts: Fact) -> None:
        self._facts.setdefault(file, {}).update(facts)

    def as_json(self) -> dict[str, Any]:
        """`summary`: how many files of each status, how many warnings; `files`: the verdicts by name."""
        return {
            "summary": self._summary(),
            "files": [
                asdict(replace(verdict, warnings=self._kept_warnings(verdict), facts=self._facts.get(name, {})))
                for name, verdict in sorted(self._verdicts.items())
            ],
        }

    def check_complete(self, files: Files) -> None:
        """AssertionError with the files that have no verdict, or a warning and no verdict."""
        known = {*files.names, *files.ignored, *self._warnings}
        if missing := sorted(known - self._verdicts.keys()):
            raise AssertionError(f"no verdict on {', '.join(missing)}")

    def _summary(self) -> dict[str, int]:
        counts = Counter(verdict.status for verdict in self._verdicts.values())
        warnings = sum(len(self._kept_warnings(verdict)) for verdict in self._verdicts.values())
        return {**{status: counts[status] for status in get_args(Status)}, "warnings": warnings}

    def _kept_warnings(self, verdict: FileReport) -> tuple[str, ...]:
        return tuple(self._warnings.get(verdict.file, ())) if verdict.status in ("used", "fitted") else ()

    def _add(self, verdict: FileReport) -> None:
        if earlier := self._verdicts.get(verdict.file):
            raise ValueError(f"{verdict.file} is already {earlier.status}, now it is {verdict.status}")
        self._verdicts[verdict.file] = verdict
