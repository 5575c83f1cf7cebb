"""The report on a dataset in a terminal: a table, or plain lines where the output goes to a file or a pipe.

In: the report. Out: text on standard output, never truncated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {"used": "green", "fitted": "blue", "skipped": "red", "ignored": "dim"}


def show_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print every file with its status, how or why, and all warnings. `report` is that of `Report.as_json`."""
    console = console or Console()
    if console.is_terminal:
        console.print(_table(report))
        for text in report["warnings"]:
            console.print(Text("! ", "bold yellow").append(text, "yellow"))
    else:
        for text in report["warnings"]:
            console.out(f"{'warning':<8}  {text}")
        for entry in report["files"]:
            console.out(f"{entry['status']:<8}  {entry['file']}" + (f"  {entry['detail']}" if entry["detail"] else ""))
            for text in entry["warnings"]:
                console.out(f"{'warning':<8}  {entry['file']}  {text}")


def _table(report: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    table.add_column("file", overflow="fold", ratio=1)
    table.add_column("status", no_wrap=True)
    table.add_column("detail and warnings", overflow="fold", ratio=3)
    for entry in report["files"]:
        # Text, and not str: a name in square brackets is no markup.
        detail = Text(entry["detail"])
        for text in entry["warnings"]:
            detail.append("\n" if detail else "").append("! ", "bold yellow").append(text, "yellow")
        table.add_row(Text(entry["file"]), Text(entry["status"], _STYLES[entry["status"]]), detail)
    return table
