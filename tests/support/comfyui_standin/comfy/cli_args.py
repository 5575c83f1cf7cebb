"""Options of the process."""

from types import SimpleNamespace

args = SimpleNamespace(cpu=False)
