"""How the server is set up: where it keeps its data, where it listens, and what it allows.

In: `server.toml` in the server's folder, if there is one, and the options of `sonolora serve`, which win.
Out: frozen `ServerSettings`, checked when made. Its fields are the one source of the options and of the table in
docs/server.md.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sonolora.core.errors import ErrorItem, InputError, SonoloraError
from sonolora.core.setting_field import check_values, same_setting, setting
from sonolora.core.user_folders import data_folder
from sonolora.modes import MODES
from sonolora.planning.prices import PUBLISHED_PRICES
from sonolora.planning.run_settings import RENAMED, RunSettings

CONFIGURATION = "server.toml"
EMBEDDED_BASE = RunSettings.base  # the one that comes with the program
WAIT, INTERRUPT = "wait", "interrupt"
LOCAL, RAY, SLURM = "local", "ray", "slurm"
TEXT, JSON = "text", "json"
FOLDER_VARIABLE = "SONOLORA_SERVER"


def default_folder() -> Path:
    """`$SONOLORA_SERVER`, else `server` in the user's data folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or data_folder() / "server")


@dataclass(frozen=True)
class ServerSettings:
    """Raises `SonoloraError` for values that do not go together. The server's URL is `urls.own_address`."""

    folder: Path
    host: str = setting("127.0.0.1", "Address to listen on; any other than this machine's own needs a key first")
    port: int = setting(8000, "HTTP port; 0 picks a free one")
    tls_port: int | None = setting(None, "HTTPS port; without it there is no HTTPS", metavar="PORT")
    certificate: Path | None = setting(
        None, "Certificate chain (PEM); by default one of the server's own certificate authority", metavar="FILE"
    )
    private_key: Path | None = setting(None, "Private key of the certificate (PEM)", metavar="FILE")
    proxy_port: int | None = setting(
        None, "Port of an HTTPS proxy that routes the published hosts to this server; needs HTTPS", metavar="PORT"
    )
    public_url: str | None = setting(
        None, "Base URL of addresses in responses and webhooks; by default the host of the request", metavar="URL"
    )
    base: str = same_setting(RunSettings, "base")
    devices: tuple[str, ...] = setting(("auto",), "Devices; each has one worker", metavar="DEVICE")
    placer: str = setting(
        LOCAL,
        "Where runs are carried out: on the devices of this machine, or by a Ray or Slurm cluster",
        choices=(LOCAL, RAY, SLURM),
    )
    ray_address: str | None = setting(None, "Address of the Ray cluster's head; needs placer ray", metavar="HOST:PORT")
    slurm_jobs: int = setting(1, "Slurm jobs at a time", minimum=1)
    slurm_options: str | None = setting(
        None, "What a Slurm job asks for, in submitit's words: gpus_per_node=1,slurm_partition=gpu", metavar="LIST"
    )
    allow_private_urls: bool = setting(False, "Fetch training data from private networks and this machine")
    allow_private_webhooks: bool = setting(False, "Send webhooks to private networks and this machine")
    generate_while_training: str = setting(
        WAIT,
        "Where every device trains, a sound to generate waits, or a training saves its state and continues afterwards",
        choices=(WAIT, INTERRUPT),
    )
    database: str | None = setting(
        None,
        "PostgreSQL database of the queue, as postgresql+psycopg://user@host/name; by default a file in the folder",
        metavar="URL",
    )
    files: str | None = setting(
        None,
        "Object store of uploads, outputs and saved states, as s3://bucket/prefix; by default the folder has them",
        metavar="URL",
    )
    redirect_downloads: bool = setting(
        False,
        "Let clients download from the object store, which they must be able to reach, and not through the server",
    )
    queue_limit: int = setting(1000, "Queued requests per key", minimum=1)
    running_limit: int | None = setting(None, "Running requests per owner; by default no limit", minimum=1)
    fair_share_hours: float = setting(
        24.0,
        "Of two owners whose requests wait, the one whose runs took less time in these hours goes first; 0: by age",
    )
    attempts: int = setting(3, "Attempts at a request whose worker crashes", minimum=1)
    max_body_bytes: int = setting(64 << 20, "Largest JSON body, data: URIs included", minimum=1)
    max_upload_bytes: int = setting(20 << 30, "Largest upload", minimum=1)
    prices: Mapping[str, float] = field(default_factory=lambda: PUBLISHED_PRICES)  # dollars per step, by mode
    held_out: float | None = same_setting(RunSettings, "held_out")
    checkpoint_seconds: float = same_setting(RunSettings, "checkpoint_seconds")
    checkpoint_every: int | None = same_setting(RunSettings, "checkpoint_every")
    weights: str = same_setting(RunSettings, "weights")
    gradient_checkpointing: bool = same_setting(RunSettings, "gradient_checkpointing")
    checkpointed_blocks: int = same_setting(RunSettings, "checkpointed_blocks")
    block_offload: bool = same_setting(RunSettings, "block_offload")
    v2a_video: str = same_setting(RunSettings, "v2a_video")
    deterministic: bool = same_setting(RunSettings, "deterministic")
    log_format: str = setting(TEXT, "Form of the log: lines of text, or one JSON object a line", choices=(TEXT, JSON))
    keep_days: float = setting(30.0, "Days to keep the folder, log and body of a finished request")

    def __post_init__(self) -> None:
        check_values(self)
        for name in ("port", "tls_port", "proxy_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port <= 65535:
                raise SonoloraError(f"{name} must be 0 to 65535, not {port}")
        if self.fair_share_hours < 0:
            raise SonoloraError(f"fair_share_hours must be 0 or more, not {self.fair_share_hours:g}")
        if self.keep_days <= 0:
            raise SonoloraError(f"keep_days must be greater than 0, not {self.keep_days:g}")
        if not self.devices:
            raise SonoloraError("devices must name at least one device: auto, cpu, cuda or cuda:1")
        if (self.placer == RAY) != (self.ray_address is not None):
            raise SonoloraError("placer ray and ray_address go together: set both or neither")
        if self.placer != SLURM and (self.slurm_jobs != 1 or self.slurm_options is not None):
            raise SonoloraError("slurm_jobs and slurm_options need placer slurm (--placer slurm)")
        if self.redirect_downloads and self.files is None:
            raise SonoloraError(
                "redirect_downloads needs files (--files s3://bucket/prefix): without an object store the server "
                "itself has what clients download"
            )
        if (self.certificate is None) != (self.private_key is None):
            raise SonoloraError("certificate and private_key go together: set both or neither")
        if self.proxy_port is not None and self.tls_port is None:
            raise SonoloraError("proxy_port needs tls_port: the proxy tunnels HTTPS")
        if self.proxy_port is not None and self.certificate is not None:
            # A given certificate is for its own host; only our own authority vouches for the published ones.
            raise SonoloraError("proxy_port needs the server's own certificate: drop certificate and private_key")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise SonoloraError(f"public_url must start with http:// or https://, not {self.public_url!r}")
        if self.database is not None and not self.database.startswith("postgresql+psycopg://"):
            raise SonoloraError(
                "database must be postgresql+psycopg://user@host/name; without it the queue is in a file of the folder"
            )
        if unknown := set(self.prices) - set(MODES):
            raise SonoloraError(f"prices are by mode ({', '.join(MODES)}), not by {', '.join(sorted(unknown))}")

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def run_settings(self, mode: str) -> dict[str, Any]:
        """The fields of `RunSettings` for a run of a mode, without base and device, which are the worker's."""
        shared = {item.name for item in fields(RunSettings)} & {item.name for item in fields(self)} - {"base"}
        return {name: getattr(self, name) for name in shared if name != "v2a_video" or MODES[mode].video}

    @property
    def nodes_share_nothing(self) -> bool:
        """Whether runs work on disks that this machine cannot read, and all goes through the object store."""
        return self.placer == RAY and self.files is not None

    @property
    def database_address(self) -> Path | str:
        """The job store's file, or the URL of its database."""
        return self.database or self.folder / "server.db"

    def run_folder(self, id: str) -> Path:
        """The run folder of a request: report, metrics, previews and checkpoints."""
        return self.folder / "runs" / id


def load_settings(folder: Path, **options: Any) -> ServerSettings:
    """The folder's `server.toml`, overridden by `options` that are not None.

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
    written = {RENAMED.get(name, name): value for name, value in written.items()}
    if unknown := set(written) - known:
        raise SonoloraError(
            f"{path}: unknown settings {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
        )
    for name in ("certificate", "private_key"):
        if name in written:
            written[name] = folder / str(written[name])
    if isinstance(prices := written.get("prices"), dict):
        written["prices"] = {**PUBLISHED_PRICES, **prices}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return TypeAdapter(ServerSettings).validate_python({"folder": folder, **written, **given})
    except ValidationError as error:
        items = [ErrorItem(("body", *fault["loc"]), fault["msg"]) for fault in error.errors()]
        raise _named(path, InputError(items), given) from error
    except InputError as error:
        raise _named(path, error, given) from error


def _named(path: Path, error: InputError, given: Mapping[str, Any]) -> SonoloraError:
    """The error with the file's name, unless it is one of the options that is wrong."""
    return error if error.items[0].loc[1] in given else SonoloraError(f"{path}: {error}")
