"""The responses of the queue as pydantic models: what `serializers` builds and what OpenAPI describes.

Fields that may be absent default to None and are omitted from the JSON unless they are set.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

DateTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class RequestLog(BaseModel):
    """A line of a log."""

    message: str
    level: Literal["STDERR", "STDOUT", "ERROR", "INFO", "WARN", "DEBUG"]
    source: Literal["USER"]
    timestamp: DateTime


class Metrics(BaseModel):
    """Empty until the request is completed."""

    inference_time: float | None = Field(default=None, description="Seconds.")


class QueueStatus(BaseModel):
    """The state of a request. A failed or cancelled one is COMPLETED, with an `error`."""

    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    logs: list[RequestLog] | None = Field(description="null unless requested.")  # clients fail without the key
    metrics: Metrics
    queue_position: int | None = Field(
        default=None, ge=0, description="Requests ahead of this one; while it is queued."
    )
    progress: dict[str, Any] | None = Field(
        default=None, description="While it runs: phase, step, steps, steps_per_second, estimated_end (unix seconds)."
    )
    waiting_for: str | None = Field(
        default=None, description="What keeps the server from working, such as a full disk."
    )
    error: str | None = Field(default=None, description="What went wrong, if it failed.")
    error_type: str | None = None
    gateway_request_id: str | None = None


class File(BaseModel):
    """An output. Its URL needs no key."""

    url: str
    content_type: str | None = None
    file_name: str | None = None
    file_size: int | None = Field(default=None, description="Bytes.")


class TrainingOutput(BaseModel):
    """The result of a training."""

    lora_file: File
    config_file: File
    audio: File | None = Field(default=None, description="The previews, if there are any.")
    video: File | None = Field(default=None, description="Always null.")
    debug_dataset: File | None = Field(default=None, description="The data as the model gets it, if requested.")


class SweepOutput(TrainingOutput):
    """The result of a sweep: the best LoRA, and how all of them stood."""

    standings: File
    curves: File


class TextToAudioOutput(BaseModel):
    """A sound."""

    audio: File
    prompt: str = Field(description="As used.")
    seed: int = Field(description="As used.")


class Sample(BaseModel):
    """One of several sounds."""

    audio: File
    video: File | None = Field(default=None, description="The video with this sound, if requested.")
    seed: int


class SoundOutput(TextToAudioOutput):
    """The first sound, and all of them."""

    video: File | None = Field(default=None, description="The video with the sound, if requested.")
    samples: list[Sample]


class InputFault(BaseModel):
    """One fault of the input: the path to the field, a message and a published type."""

    loc: list[str | int]
    msg: str
    type: str
    input: Any = Field(default=None, description="The value found.")
    ctx: dict[str, Any] | None = None


class InputFaults(BaseModel):
    """Invalid input."""

    detail: list[InputFault]


class RequestError(BaseModel):
    """Every other error."""

    detail: str
    error_type: str | None = None


class CancelRequested(BaseModel):
    status: Literal["CANCELLATION_REQUESTED"]


class AlreadyCompleted(BaseModel):
    status: Literal["ALREADY_COMPLETED"]


class NotFound(BaseModel):
    status: Literal["NOT_FOUND"]
