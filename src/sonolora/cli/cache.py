"""`sonolora cache ...`: the size of the cache of latents and text contexts, and how to make it smaller."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from sonolora.cli.help_pages import add_command, make_group
from sonolora.data.cache_folder import LIMIT_VARIABLE, clear, default_cache_folder, entries, limit_bytes, prune

cache_app = make_group("Show or shrink the cache of latents and text contexts.")


def show() -> None:
    """Show where the cache is, its size and its limit."""
    folder, kept = default_cache_folder(), list(entries(default_cache_folder()))
    print(f"folder     {folder}")
    print(f"entries    {len(kept):,}, {_gb(sum(entry.size for entry in kept))}")
    print(f"limit      {_gb(limit_bytes())} (set {LIMIT_VARIABLE} to change it)")
    if kept:
        days = (time.time() - min(entry.used for entry in kept)) / 86_400
        print(f"unused     for up to {max(days, 0):.0f} days")


def remove_oldest(
    gb: Annotated[float, typer.Argument(metavar="GB", min=0, help="The size that the cache may keep.")],
) -> None:
    """Remove the entries that were not used for longest, until the rest fits in GB."""
    _report(*prune(default_cache_folder(), int(gb * 1e9)))


def remove_all() -> None:
    """Remove all entries. Nothing is lost: they are computed again when they are needed."""
    _report(*clear(default_cache_folder()))


def _report(count: int, size: int) -> None:
    print(f"removed {count:,} {'entry' if count == 1 else 'entries'}, {_gb(size)}")


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


add_command(cache_app, "show", show)
add_command(cache_app, "prune", remove_oldest)
add_command(cache_app, "clear", remove_all)
