"""A training request: the published fields with their ranges and defaults.

In: a JSON object. Out: a frozen request, or an `InputError` with one item per fault, in the published format.
These models are the single source of the command-line options, the schema of the HTTP API and the docs.
Source: the published pages and schemas of the `ltx23-trainer-v2` endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from annotated_types import MaxLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from sonolora.core.errors import ABSENT, ErrorItem, InputError

NEGATIVE_PROMPT = (
    "muffled, distorted, clipping, hiss, hum, crackle, static, clicks and pops, metallic ringing, robotic, garbled, "
    "thin, boxy, excessive reverb, unwanted background noise, abrupt cut, silence, off-key, out of sync"
)
MAX_PREVIEW_FRAMES = 121
_MAX_NAMES, _MAX_NAME_LENGTH = 10, 80  # in messages
_MAX_ENTRIES = 1000  # of a list without a limit of its own
# Errors that pydantic words for Python, by type.
_ARRAY, _OBJECT = ("list_type", "Input should be a valid array"), ("model_type", "Input should be an object")
_JSON_WORDS = {"is_instance_of": _ARRAY, "sequence_str": _ARRAY, "list_type": _ARRAY, "model_type": _OBJECT}
_Rank = Literal[8, 16, 32, 64, 128]
Size = Literal["low", "medium", "high"]
Aspect = Literal["16:9", "1:1", "9:16"]


def _number_from_text(value: Any) -> Any:
    """The published pages print the ranks in quotes; both forms are accepted."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _snapped(frames: int) -> int:
    """Down to the nearest 8 k + 1, as the page specifies."""
    return (frames - 1) // 8 * 8 + 1


_Frames = Annotated[int, Field(ge=9, le=121), AfterValidator(_snapped)]


class Body(BaseModel):
    """A request body: unknown fields are ignored, numbers are finite."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    without_effect: ClassVar[frozenset[str]] = frozenset()

    def faults(self) -> list[ErrorItem]:
        """Faults of fields that are valid by themselves but not together."""
        return []


class ValidationEntry(BaseModel):
    """The field of every validation entry; modes add its conditioning."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: str


class TrainRequest(Body):
    """The fields of all six modes."""

    training_data_url: str = Field(description="The training data: a zip archive, by URL or path.", min_length=1)
    rank: Annotated[_Rank, BeforeValidator(_number_from_text)] = Field(
        32, description="Capacity of the LoRA: 8, 16, 32, 64 or 128."
    )
    number_of_steps: int = Field(2000, ge=100, le=20000, description="Number of optimisation steps.")
    learning_rate: float = Field(
        0.0002, ge=1e-6, le=1, description="Initial learning rate; it decays linearly to a tenth."
    )
    number_of_frames: _Frames = Field(
        89, description="Video frames of a training clip, 8 k + 1. A video needs that many frames of its own."
    )
    frame_rate: int = Field(24, ge=8, le=60, description="Video frames per second of a training clip.")
    resolution: Size = Field("medium", description="Video size: low, medium or high.")
    aspect_ratio: Aspect = Field("1:1", description="Video shape: 16:9, 1:1 or 9:16.")
    trigger_phrase: str = Field("", description="Prepended to every caption; include it in prompts, too.")
    auto_scale_input: bool = Field(False, description="Retime videos to the frame count and rate.")
    split_input_into_scenes: bool = Field(True, description="Cut long videos at scene changes.")
    split_input_duration_threshold: float = Field(
        30.0, ge=1, le=60, description="Videos longer than this many seconds are split."
    )
    debug_dataset: bool = Field(False, description="Also write an archive of the data as the model gets it.")
    validation: Sequence[ValidationEntry] = Field(
        default_factory=list, max_length=2, description="Up to two previews, each {prompt}."
    )
    validation_negative_prompt: str = Field(NEGATIVE_PROMPT, description="Negative prompt of the previews.")
    validation_number_of_frames: _Frames = Field(89, description="Video frames of a preview, 8 k + 1.")
    validation_frame_rate: int = Field(
        24, ge=8, le=60, description="Limits the length of a preview: 121 frames at this rate."
    )
    validation_resolution: Size = Field("high", description="Video size for a preview.")
    validation_aspect_ratio: Aspect = Field("1:1", description="Video shape for a preview.")
    stg_scale: float = Field(1.0, ge=0, le=3, description="Spatio-temporal guidance of previews; 0 is off.")

    @property
    def requested_stg_scale(self) -> float | None:
        """None if the request does not set it: the base may have a default of its own."""
        return self.stg_scale if "stg_scale" in self.model_fields_set else None

    def saved(self) -> dict[str, Any]:
        """All values, from which an equal request can be parsed."""
        return self.model_dump(exclude=set() if self.requested_stg_scale is not None else {"stg_scale"})

    @property
    def clip_seconds(self) -> float:
        """Length of a training clip."""
        return self.number_of_frames / self.frame_rate

    @property
    def preview_seconds(self) -> float:
        """Length of a preview. Without video: that of a clip, but at most 121 frames at the validation frame rate."""
        return self.validation_number_of_frames / self.validation_frame_rate


class AudioRequest(TrainRequest):
    """The fields of the five modes without video. They accept the video fields, which have no effect."""

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            "number_of_frames",
            "frame_rate",
            "resolution",
            "aspect_ratio",
            "auto_scale_input",
            "split_input_into_scenes",
            "split_input_duration_threshold",
            "validation_number_of_frames",
            "validation_resolution",
            "validation_aspect_ratio",
        }
    )

    audio_duration_seconds: float = Field(
        5.0,
        ge=0.5,
        le=60,
        description="Length of a training clip; shorter clips are skipped, longer ones trimmed.",
    )
    audio_normalize: bool = Field(True, description="Normalise every clip to the same peak level.")
    audio_preserve_pitch: bool = Field(
        True,
        description="Time-stretch a clip within 2 % of the length, at its pitch, instead of trimming or padding it.",
    )

    @property
    def clip_seconds(self) -> float:
        return self.audio_duration_seconds

    @property
    def preview_seconds(self) -> float:
        return min(self.audio_duration_seconds, MAX_PREVIEW_FRAMES / self.validation_frame_rate)


def unknown_fields(model: type[Body], body: Mapping[str, Any]) -> list[str]:
    """A line for each unknown field of a body, at most ten. The published endpoints ignore such fields, too."""
    names = islice((name[:_MAX_NAME_LENGTH] for name in body if name not in model.model_fields), _MAX_NAMES)
    return [
        f"unknown field {name if name.isprintable() else ascii(name)} has no effect{_hint(name, model.model_fields)}"
        for name in names
    ]


def _hint(name: str, fields: Iterable[str]) -> str:
    near = get_close_matches(name, fields, 1)
    return f"; did you mean {near[0]}?" if near else ""


_Body = TypeVar("_Body", bound=Body)


def parse(model: type[_Body], body: Mapping[str, Any]) -> _Body:
    """Validate a request body. Raises `InputError` with every fault: the field, the value found, what is allowed."""
    # Before anything in them is looked at: every entry of a list could be a fault of its own.
    if too_long := list(_long_lists(model, body, ("body",))):
        raise InputError(too_long)
    try:
        request = model.model_validate(body)
    except ValidationError as error:
        raise InputError([_fault(details) for details in error.errors(include_url=False)]) from error
    if faults := request.faults():
        raise InputError(faults)
    return request


def _long_lists(model: type[BaseModel], body: Mapping[str, Any], loc: tuple[str | int, ...]) -> Iterator[ErrorItem]:
    """A fault for each list, in a body or in the entries of a list of models, that has too many entries."""
    for name, field in model.model_fields.items():
        value = body.get(name)
        if not isinstance(value, list | tuple):
            continue
        limit = next((rule.max_length for rule in field.metadata if isinstance(rule, MaxLen)), _MAX_ENTRIES)
        if len(value) > limit:
            msg = f"List should have at most {limit} items, not {len(value)}"
            ctx = {"field_type": "List", "max_length": limit, "actual_length": len(value)}
            yield ErrorItem((*loc, name), msg, "too_long", ctx, value)
            continue
        for entry_type in get_args(field.annotation):
            for index, entry in enumerate(value):
                if isinstance(entry, Mapping) and isinstance(entry_type, type) and issubclass(entry_type, BaseModel):
                    yield from _long_lists(entry_type, entry, (*loc, name, index))


def _fault(details: ErrorDetails) -> ErrorItem:
    """A fault that pydantic found, in the words of JSON."""
    type, msg = _JSON_WORDS.get(details["type"], (details["type"], details["msg"]))
    ctx = {} if msg != details["msg"] else {key: one for key, one in details.get("ctx", {}).items() if key != "error"}
    return ErrorItem(("body", *details["loc"]), msg, type, ctx, ABSENT if type == "missing" else details["input"])
