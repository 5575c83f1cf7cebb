"""How the server is set up: where it keeps things, where it listens, and what it allows.

In: `server.toml` in the server's folder, if there is one, and the options of the command line, which win.
Out: frozen `ServerSettings`, checked when made.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from sonolora.core.errors import SonoloraError
from sonolora.modes import MODES
from sonolora.planning.prices import PUBLISHED_PRICES

CONFIGURATION = "server.toml"
EMBEDDED_BASE = "tiny"  # the one that comes with the program


def default_folder() -> Path:
    """`$SONOLORA_SERVER`, else `sonolora/server` in the user's data folder."""
    if folder := os.environ.get("SONOLORA_SERVER"):
        return Path(folder)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sonolora" / "server"


@dataclass(frozen=True)
class ServerSettings:
    """Raises `SonoloraError` for values that cannot be. The URL of the server is `urls.own_address`."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000  # plain http; 0 takes a free one
    tls_port: int | None = None  # https, with the same app
    certificate: Path | None = None  # a chain in PEM; without it our own authority makes one
    private_key: Path | None = None
    proxy_port: int | None = None  # answers CONNECT to the published hosts with our TLS port
    public_url: str | None = None  # what URLs in answers start with; without it the request's own host
    base: str = EMBEDDED_BASE
    devices: tuple[str, ...] = ("auto",)  # one worker each
    allow_private_urls: bool = False  # training data from private networks and this machine
    allow_private_webhooks: bool = False
    queue_limit: int = 1000  # queued requests of a key
    attempts: int = 3  # of a request whose worker crashes
    max_body_bytes: int = 64 << 20  # JSON bodies; data: URIs may be in them
    max_upload_bytes: int = 20 << 30
    prices: Mapping[str, float] = field(default_factory=lambda: PUBLISHED_PRICES)  # dollars a step, by mode
    checkpoint_every: int = 250  # steps
    # How runs hold the base: fields of `RunSettings`, whose module is too heavy to import here.
    weights: Literal["full", "int8", "fp8", "nf4"] = "full"
    gradient_checkpointing: bool = False
    stream_blocks: bool = False
    v2a_video: Literal["joint", "frozen-cached"] = "joint"
    keep_days: float = 30  # how long a finished request's folder, logs and body are kept

    def __post_init__(self) -> None:
        for name in ("port", "tls_port", "proxy_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port <= 65535:
                raise SonoloraError(f"{name} must be 0 to 65535, not {port}")
        for name in ("queue_limit", "attempts", "max_body_bytes", "max_upload_bytes", "checkpoint_every", "keep_days"):
            if getattr(self, name) <= 0:
                raise SonoloraError(f"{name} must be greater than 0, not {getattr(self, name)}")
        if not self.devices:
            raise SonoloraError("devices must name at least one device: auto, cpu, cuda or cuda:1")
        if (self.certificate is None) != (self.private_key is None):
            raise SonoloraError("certificate and private_key go together: give both or neither")
        if self.proxy_port is not None and self.tls_port is None:
            raise SonoloraError("proxy_port needs tls_port: what is tunnelled is https")
        if self.proxy_port is not None and self.certificate is not None:
            # A given certificate is for its own host; only our own authority vouches for the published ones.
            raise SonoloraError("proxy_port needs our own certificate: leave certificate and private_key out")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise SonoloraError(f"public_url must start with http:// or https://, not {self.public_url!r}")
        if unknown := set(self.prices) - set(MODES):
            raise SonoloraError(f"prices are by mode ({', '.join(MODES)}), not by {', '.join(sorted(unknown))}")

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def run_settings(self, mode: str) -> dict[str, Any]:
        """The fields of `RunSettings` for a run of a mode, but for base and device."""
        names = ["checkpoint_every", "weights", "gradient_checkpointing", "stream_blocks"]
        names += ["v2a_video"] if MODES[mode].video else []
        return {name: getattr(self, name) for name in names}

    @property
    def database(self) -> Path:
        """The job store's file."""
        return self.folder / "server.db"

    def run_folder(self, id: str) -> Path:
        """Where the run of a request works: its report, metrics, previews and states."""
        return self.folder / "runs" / id


def load_settings(folder: Path, **given: Any) -> ServerSettings:
    """The folder's `server.toml` under what is `given`; a given None says nothing.

    Raises `SonoloraError` naming the file and what is wrong in it.
    """
    path = folder / CONFIGURATION
    known = {item.name for item in fields(ServerSettings)} - {"folder"}
    try:
        written = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        written = {}
    except (OSError, ValueError) as error:
        raise SonoloraError(f"{path} cannot be read: {error}") from error
    if unknown := set(written) - known:
        raise SonoloraError(f"{path} says {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    for name in ("certificate", "private_key"):
        if name in written:
            written[name] = folder / str(written[name])
    if isinstance(prices := written.get("prices"), dict):
        written["prices"] = {**PUBLISHED_PRICES, **prices}
    said = {name: value for name, value in given.items() if value is not None}
    try:
        return TypeAdapter(ServerSettings).validate_python({"folder": folder, **written, **said})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise SonoloraError(f"{path}: {faults}" if written else faults) from error
