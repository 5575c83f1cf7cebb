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
JSON_FIELDS = (VALIDATION_FIELD, "time_ranges")
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


def prompt_option(model: type[TrainRequest]) -> Any:
    """`--prompt`, hidden in modes whose previews need more than a prompt."""
    (entry,) = get_args(model.model_fields[VALIDATION_FIELD].annotation)
    needed = [name for name, field in entry.model_fields.items() if field.is_required() and name != "prompt"]

    def refuse(prompts: list[str] | None) -> list[str] | None:
        if prompts and needed:
            example = json.dumps({"prompt": prompts[0], **dict.fromkeys(needed, "...")})
            raise InputError.of(
                "prompt", f"previews of this mode need {', '.join(needed)}, too: use --validation '[{example}]'"
            )
        return prompts

    help_text = "Prompt of a preview; may be repeated once."
    return typer.Option("--prompt", help=help_text, metavar="TEXT", hidden=bool(needed), callback=refuse)


def request_body(
    given: Mapping[str, Any], data: str | None, prompts: Sequence[str], request_file: Path | None
) -> dict[str, Any]:
    """The request body: the request file, overridden by what the command line gives.

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
    if prompts and isinstance(entries, list):  # anything else is refused with the rest of the request
        body[VALIDATION_FIELD] = [*entries, *({"prompt": prompt} for prompt in prompts)]
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
            raise InputError.of(
                name, f"{text!r} is neither JSON nor a readable file ({reason})", "json_invalid"
            ) from error
        raise InputError.of(name, f"{path} is not JSON: {error}", "json_invalid") from error
