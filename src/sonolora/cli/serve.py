"""`sonolora serve`: the training server. Its options are the fields of `ServerSettings`."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer

from sonolora.cli.mode_commands import with_options
from sonolora.cli.server import Folder
from sonolora.cli.setting_options import Options, override_options, settings_in
from sonolora.cli.streams import droppable_output
from sonolora.core.errors import SonoloraError
from sonolora.modes.request import Body
from sonolora.server.settings import ServerSettings, default_folder, load_settings

_TLS_PORT, _PROXY_PORT = 8443, 8001
_NEEDED_MODULES = ("fcntl", "resource", "uvloop")  # which Windows does not have
_OPTIONS: Options = {
    "folder": (Folder, None),
    "tls": (Annotated[bool, typer.Option("--tls", help=f"Serve HTTPS, too: --tls-port {_TLS_PORT}.")], False),
    "proxy": (
        Annotated[bool, typer.Option("--proxy", help=f"Be an HTTPS proxy, too: --tls and --proxy-port {_PROXY_PORT}.")],
        False,
    ),
    "examples": (
        Annotated[bool, typer.Option("--examples", help="Print examples to paste for Python, JavaScript and curl.")],
        False,
    ),
    "accept_database": (
        Annotated[
            bool,
            typer.Option(
                "--accept-database", help="Start even if the folder's database is new or is not the one it had before."
            ),
        ],
        False,
    ),
    **override_options(ServerSettings),
}


def _serve(own: dict[str, Any], _: dict[str, Any]) -> None:
    settings = settings_in(ServerSettings, own)
    if own["proxy"] and settings["proxy_port"] is None:
        settings["proxy_port"] = _PROXY_PORT
    if (own["tls"] or settings["proxy_port"] is not None) and settings["tls_port"] is None:
        settings["tls_port"] = _TLS_PORT
    checked = load_settings(own["folder"] or default_folder(), **settings)
    for module in _NEEDED_MODULES:
        try:
            importlib.import_module(module)
        except ImportError:
            raise SonoloraError(
                f"`sonolora serve` needs the Python module {module}, which this system does not have: run it on Linux "
                "or macOS, in WSL 2, or in a container. Training, generate and check work here"
            ) from None
    from sonolora.server.logs import configure
    from sonolora.server.serve import serve as run_server

    configure(checked.log_format)
    with droppable_output():  # the server continues when its terminal is gone
        run_server(checked, accept_database=own["accept_database"], with_examples=own["examples"])


serve = with_options(_OPTIONS, Body, _serve)
SERVE_HELP = """Serve training over fal's queue API.

Every option can also stand in FOLDER/server.toml; options win.
"""
