"""Where a ComfyUI installation keeps its models.

In: a folder, or nothing. Out: the folders with models: `models` of the installation, and those that its
`extra_model_paths.yaml` names. Without a folder the places are searched where installers put ComfyUI.

Source of the format: the example file that comes with ComfyUI. A section has a `base_path` and, by kind of model, paths
below it, one or several lines each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sonolora.core.errors import SonoloraError

VARIABLE = "COMFYUI_PATH"
EXTRA_PATHS = "extra_model_paths.yaml"
_DESKTOP_PATHS = "extra_models_config.yaml"  # of the desktop application, in the user's configuration folder
# Kinds of models that parts of a base, text encoders and LoRAs are kept under; others are not looked at.
KINDS = ("checkpoints", "diffusion_models", "unet", "text_encoders", "clip", "vae", "loras", "audio_vae", "unet_gguf")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with models. `kind` is ComfyUI's name for what is in it."""

    path: Path
    kind: str


def installations() -> list[Path]:
    """The ComfyUI installations in the usual places: `$COMFYUI_PATH`, here, home, and what installers choose."""
    home = Path.home()
    places = [Path(value) for value in [os.environ.get(VARIABLE)] if value]
    for folder in (Path.cwd(), home, home / "Documents", home / "comfy", Path("/workspace"), Path("/opt"), Path("/")):
        places += [folder / "ComfyUI", folder / "ComfyUI_windows_portable" / "ComfyUI"]
    if sys.platform == "win32":
        places += [Path(f"{drive}:/{name}") for drive in "CDE" for name in ("ComfyUI", "ComfyUI_windows_portable")]
    found: dict[Path, Path] = {}
    for place in places:
        if (place / "models").is_dir() or (place / EXTRA_PATHS).is_file():
            found.setdefault(place.resolve(), place)
    return list(found.values())


def model_folders(folder: Path) -> list[ModelFolder]:
    """The folders with models of the installation in `folder`, or of the folder of models that it is.

    Raises `SonoloraError` for a folder that does not exist, and for paths in YAML that cannot be read.
    """
    if not folder.is_dir():
        raise SonoloraError(f"{folder}: no such folder; give the folder of ComfyUI, or one with models")
    if not (folder / "models").is_dir() and (folder / "ComfyUI").is_dir():  # the portable build
        folder = folder / "ComfyUI"
    models = folder / "models"
    if models.is_dir():
        found = [ModelFolder(models / kind, kind) for kind in KINDS]
    else:
        named = [ModelFolder(folder / kind, kind) for kind in KINDS if (folder / kind).is_dir()]
        found = named or [ModelFolder(folder, "models")]
    for file in (folder / EXTRA_PATHS, *_desktop_files()):
        if file.is_file():
            found += extra_folders(file)
    return [one for one in dict.fromkeys(found) if one.path.is_dir()]


def extra_folders(file: Path) -> list[ModelFolder]:
    """The folders that such a file names. Raises `SonoloraError` with the file for one that cannot be read."""
    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        return list(_folders_in(sections, file.parent))
    except OSError as error:
        raise SonoloraError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, AttributeError, TypeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SonoloraError(f"{file}: not a list of model paths as ComfyUI has it: {reason}") from error


def _folders_in(sections: dict[str, Any], own: Path) -> Iterator[ModelFolder]:
    for section in sections.values():
        if section is None:
            continue
        base = own / _expanded(section.get("base_path") or ".")
        for kind, lines in section.items():
            if kind in KINDS:
                yield from (ModelFolder(base / _expanded(line), kind) for line in _lines(lines))


def _lines(text: str) -> list[str]:
    return [line.split(" #")[0].strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _desktop_files() -> list[Path]:
    """The file of the desktop application, which has the same form."""
    home = Path.home()
    folders = {
        "win32": Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming"),
        "darwin": home / "Library" / "Application Support",
    }
    folder = folders.get(sys.platform, Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config"))
    return [folder / "ComfyUI" / _DESKTOP_PATHS]
