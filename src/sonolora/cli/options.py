"""Command-line options made from a request model, so that they cannot differ from the published fields.

In: a pydantic request model. Out: parameters for a command's signature, and the request body that the given options
make. Values stay text until the model reads them: the same checks and the same words as over HTTP.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from sonolora.core.errors import InputError
from sonolora.modes.request import Body, TrainRequest

DATA_FIELD = "training_data_url"
VALIDATION_FIELD = "validation"
JSON_FIELDS = (VALIDATION_FIELD, "time_ranges")


def give_options(command: Callable[..., None], own: Mapping[str, tuple[Any, Any]], model: type[Body]) -> None:
    """Let a command take options of its own and every field of a request; typer reads them off its signature.

    `own` has annotation and default by name; the default `...` means that it must be given.
    """
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is ... else default,
            annotation=annotation,
        )
        for name, (annotation, default) in own.items()
    ] + option_parameters(model)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def option_parameters(model: type[Body]) -> list[inspect.Parameter]:
    """One optional keyword parameter a field, but for the training data, which is an argument of the command."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_annotation(name, field, idle=name in model.without_effect),
        )
        for name, field in model.model_fields.items()
        if name != DATA_FIELD
    ]


def _annotation(name: str, field: FieldInfo, *, idle: bool) -> Any:
    flag = "--" + name.replace("_", "-")
    default = "" if field.default in ("", None) or field.is_required() else f" [default: {field.default}]"
    if name in JSON_FIELDS:
        help_text = f"{field.description} As JSON text, or the name of a file with it."
        return Annotated[str | None, typer.Option(flag, help=help_text, metavar="JSON")]
    if len(default) > 40:
        default = " [default: a built-in text]"
    help_text = f"{'No effect in this mode. ' if idle else ''}{field.description}{default}"
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no{flag[1:]}", help=help_text, show_default=False)]
    return Annotated[str | None, typer.Option(flag, help=help_text, metavar=_metavar(field))]


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(map(str, get_args(field.annotation)))
    bounds = {side: getattr(rule, side) for rule in field.metadata for side in ("ge", "le") if hasattr(rule, side)}
    if len(bounds) == 2:
        return f"{bounds['ge']:g}..{bounds['le']:g}"
    return "TEXT"


def prompt_option(model: type[TrainRequest]) -> Any:
    """`--prompt`, which is hidden in modes whose previews are given more than words."""
    (entry,) = get_args(model.model_fields[VALIDATION_FIELD].annotation)
    needed = [name for name, field in entry.model_fields.items() if field.is_required() and name != "prompt"]

    def refuse(prompts: list[str] | None) -> list[str] | None:
        if prompts and needed:
            example = json.dumps({"prompt": prompts[0], **dict.fromkeys(needed, "...")})
            raise InputError.of("prompt", f"here a preview is given more than words: --validation '[{example}]'")
        return prompts

    help_text = "A preview of this prompt; at most two."
    return typer.Option("--prompt", help=help_text, hidden=bool(needed), callback=refuse)


def request_body(
    given: Mapping[str, Any], data: str | None, prompts: Sequence[str], request_file: Path | None
) -> dict[str, Any]:
    """The body: what the request file says, overridden by what is given on the command line.

    Raises `InputError` naming the file or field that is not JSON.
    """
    body = _json_object(request_file) if request_file else {}
    body.update({name: value for name, value in given.items() if value is not None})
    if data is not None:
        body[DATA_FIELD] = data
    read_json_fields(body)
    entries = body.get(VALIDATION_FIELD) or []
    if prompts and isinstance(entries, list):  # anything else is refused by name with the rest of the request
        body[VALIDATION_FIELD] = [
            *entries,
            *({"prompt": prompt} for prompt in prompts),
        ]
    if DATA_FIELD not in body:
        raise InputError.of(DATA_FIELD, "missing: say where the training data is, a zip, a folder or a URL", "missing")
    return body


def read_json_fields(body: dict[str, Any]) -> None:
    """Replace the text of the fields that hold JSON, or the name of a file with it, by what it says."""
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
    except OSError as error:
        raise InputError.of(
            name,
            f"{text!r} is neither JSON nor a readable file ({error.strerror})",
            "json_invalid",
        ) from error
    except ValueError as error:
        raise InputError.of(name, f"{path} is not JSON: {error}", "json_invalid") from error
