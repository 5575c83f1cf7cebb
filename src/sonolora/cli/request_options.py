"""Command-line options made from a request model, so that they cannot differ from the published fields.

In: a pydantic request model. Out: options for a command's signature, and the request body that the given ones make.
Values stay text until the model reads them: the same checks and the same messages as over HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from sonolora.cli.setting_options import Options
from sonolora.core.errors import InputError
from sonolora.modes.request import Body, TrainRequest

DATA_FIELD = "training_data_url"
VALIDATION_FIELD = "validation"
JSON_FIELDS = {VALIDATION_FIELD: '[{"prompt": "rain"}]', "time_ranges": "[[1.0, 2.0]]"}  # each with an example
_SECTION = "Request fields"
# One name for one thing in all modes and commands; the field's own name is accepted, too.
_ALIASES = {
    "audio_duration_seconds": "--seconds",
    "number_of_steps": "--steps",
    "audio": "--input",
    "reference": "--input",
    "video": "--input",
}
SECONDS = "seconds"  # of a training clip, in the mode that counts frames
_LONGEST_DEFAULT = 20  # characters


def request_options(model: type[Body]) -> Options:
    """An option for each field of a request but the training data, which is an argument of the command.

    Fields without an effect in this mode are accepted and not listed: see `idle_options`.
    """
    options: dict[str, tuple[Any, Any]] = {
        name: (_annotation(name, field, idle=name in model.without_effect), None)
        for name, field in model.model_fields.items()
        if name != DATA_FIELD
    }
    if "number_of_frames" in options and "audio_duration_seconds" not in options:
        help_text = "Length of a training clip in seconds, in place of --number-of-frames."
        flag = typer.Option("--seconds", help=help_text, metavar="X", rich_help_panel=_SECTION, show_default=False)
        options[SECONDS] = (Annotated[float | None, flag], None)
    return options


def idle_options(model: type[Body]) -> str | None:
    """What to say at the end of a help page about the fields that have no effect; None if all have one."""
    idle = [name for name in model.model_fields if name in model.without_effect]
    return f"Request fields accepted for compatibility, without effect here: {', '.join(idle)}." if idle else None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _annotation(name: str, field: FieldInfo, *, idle: bool) -> Any:
    flag, help_text = _flag(name), f"{field.description}"
    flags = [flag, _ALIASES[name]] if name in _ALIASES else [flag]
    texts: dict[str, Any] = {"hidden": idle, "rich_help_panel": _SECTION, "show_default": False}
    if name in JSON_FIELDS:
        help_text += " As JSON, or the name of a JSON file." + (" [required]" if field.is_required() else "")
        return Annotated[str | None, typer.Option(flag, help=help_text, metavar="JSON|FILE", **texts)]
    if field.is_required():
        help_text += " [required]"
    elif field.annotation is bool:
        help_text += f" [default: {'on' if field.default else 'off'}]"
    elif field.default not in ("", None):
        shown = str(field.default)
        help_text += f" [default: {shown if len(shown) <= _LONGEST_DEFAULT else 'a built-in text'}]"
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag.removeprefix('--')}", help=help_text, **texts)]
    return Annotated[str | None, typer.Option(*flags, help=help_text, metavar=_metavar(field), **texts)]


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(map(str, get_args(field.annotation)))
    bounds = {side: getattr(rule, side) for rule in field.metadata for side in ("ge", "le") if hasattr(rule, side)}
    if len(bounds) == 2:
        return f"{bounds['ge']:g}..{bounds['le']:g}"
    return "TEXT"


def preview_options(model: type[TrainRequest]) -> Options:
    """`--prompt` and, where previews of the mode need a file, `--preview-audio` or `--preview-video` and the gaps."""
    needed = _preview_fields(model)
    several = "may be repeated once"
    help_text = f"Prompt of a preview; {several}." if not needed else f"Prompt of --preview-{_kind(needed)}; {several}."
    options: dict[str, tuple[Any, Any]] = {
        "prompt": (
            Annotated[list[str] | None, typer.Option("--prompt", "--preview-prompt", help=help_text, metavar="TEXT")],
            None,
        )
    }
    if needed:
        flag = typer.Option(
            f"--preview-{_kind(needed)}",
            metavar="FILE",
            help=f"What a preview is made from, a file or URL; {several}. By default the run's own clips.",
        )
        options["preview_input"] = (Annotated[list[str] | None, flag], None)
    if "time_ranges" in needed:
        flag = typer.Option(
            "--preview-gap", metavar="START-END", help="Seconds that the preview regenerates, such as 0.8-1.4,2-2.5."
        )
        options["preview_gap"] = (Annotated[list[str] | None, flag], None)
    return options


def preview_entries(
    model: type[TrainRequest], prompts: Sequence[str], inputs: Sequence[str], gaps: Sequence[str]
) -> list[dict[str, Any]]:
    """Validation entries of these options. Raises `InputError` for prompts, files and gaps that do not pair up."""
    needed = _preview_fields(model)
    if not needed:
        return [{"prompt": prompt} for prompt in prompts]
    flag = f"--preview-{_kind(needed)}"
    if not inputs and (prompts or gaps):
        raise InputError.of("prompt", f"previews of this mode are made from a file: add {flag} FILE")
    entries = []
    for index, address in enumerate(inputs):
        entry: dict[str, Any] = {"prompt": _paired("prompt", "--preview-prompt", prompts, index, len(inputs))}
        entry |= {name: address for name in needed if name.endswith("_url")}
        if "time_ranges" in needed:
            entry["time_ranges"] = _gaps(_paired("time_ranges", "--preview-gap", gaps, index, len(inputs)))
        entries.append(entry)
    return entries


def _preview_fields(model: type[TrainRequest]) -> list[str]:
    """What a validation entry of the mode needs besides a prompt."""
    (entry,) = get_args(model.model_fields[VALIDATION_FIELD].annotation)
    return [name for name, field in entry.model_fields.items() if field.is_required() and name != "prompt"]


def _kind(needed: Sequence[str]) -> str:
    return "video" if "video_url" in needed else "audio"


def _paired(field: str, flag: str, values: Sequence[str], index: int, count: int) -> str:
    """The value for one of several previews: one for all, or one for each."""
    if len(values) not in (1, count):
        raise InputError.of(field, f"{count} previews and {len(values)} {flag}: give it once, or once for each")
    return values[index if len(values) == count else 0]


def _gaps(text: str) -> list[list[float]]:
    try:
        gaps = [[float(end) for end in part.split("-")] for part in text.split(",")]
    except ValueError:
        gaps = []
    if not gaps or any(len(gap) != 2 for gap in gaps):
        raise InputError.of("time_ranges", f"--preview-gap {text!r} is not START-END in seconds, such as 0.8-1.4")
    return gaps


def request_body(
    given: Mapping[str, Any], data: str | None, previews: Sequence[Mapping[str, Any]], request_file: Path | None
) -> dict[str, Any]:
    """The request body: the request file, overridden by what the command line gives; `previews` are added to it.

    Raises `InputError` naming the file or field that is not JSON.
    """
    body = _json_object(request_file) if request_file else {}
    body.update({name: value for name, value in given.items() if value is not None})
    if given.get(SECONDS) is not None:
        body["number_of_frames"] = _frames(body.pop(SECONDS), body)
    if data is not None:
        body[DATA_FIELD] = data
    read_json_fields(body)
    entries = body.get(VALIDATION_FIELD) or []
    if previews and isinstance(entries, list):  # anything else is refused with the rest of the request
        body[VALIDATION_FIELD] = [*entries, *previews]
    if DATA_FIELD not in body:
        raise InputError.of(DATA_FIELD, "missing: give the training data, a zip archive, a folder or a URL", "missing")
    return body


def _frames(seconds: float, body: Mapping[str, Any]) -> int:
    """As many video frames as fit into seconds, 8 k + 1."""
    rate = body.get("frame_rate") or TrainRequest.model_fields["frame_rate"].default
    try:
        frames = int(float(seconds) * float(rate) + 1e-6)
    except (TypeError, ValueError):  # refused with the rest of the request
        return 0
    return max((frames - 1) // 8 * 8 + 1, 1)


def read_json_fields(body: dict[str, Any]) -> None:
    """Replace JSON text, or the name of a JSON file, by its content in the fields that hold JSON."""
    for name in JSON_FIELDS:
        if isinstance(body.get(name), str):
            body[name] = _json_text_or_file(name, body[name])


def _json_object(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError.of("request", f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError.of("request", f"{path} is not JSON: {error}", "json_invalid") from error
    if not isinstance(body, dict):
        raise InputError.of("request", f"{path} must hold a JSON object, not a {type(body).__name__}", "json_invalid")
    return body


def _json_text_or_file(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        path = Path(text)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) or "\0" in text:  # no name of a file
            reason = getattr(error, "strerror", None) or "not a file name"
            message = f"{text!r} is neither JSON such as {JSON_FIELDS[name]} nor a readable file ({reason})"
            raise InputError.of(name, message, "json_invalid") from error
        raise InputError.of(name, f"{path} is not JSON: {error}", "json_invalid") from error
