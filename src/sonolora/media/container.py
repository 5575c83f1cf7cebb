"""Opening a media file that came from a stranger. In: a path. Out: an open container, or a `MediaError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer

from sonolora.core.errors import MediaError

# FFmpeg goes by the content, not by the extension, and also knows playlists that name other files and
# addresses. Such a list in an archive must not make us read them, so only formats that hold media are open.
_OPTIONS = {"format_whitelist": "aac,avi,flac,matroska,mov,mp3,ogg,w64,wav", "protocol_whitelist": "file"}


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """The opened file; MediaError if it is missing, empty, or not audio or video of a known format."""
    try:
        if path.stat().st_size == 0:
            raise MediaError(path, "the file is empty (0 bytes)")
        # "file:" lets a name hold a colon; tags in an old encoding are no reason to refuse the sound.
        container = av.open(f"file:{path}", options=_OPTIONS, metadata_errors="replace")
    except OSError as error:
        raise MediaError(path, f"the file cannot be opened: {(error.strerror or str(error)).lower()}") from error
    except av.FFmpegError as error:
        raise MediaError(
            path, "this is not audio or video that can be read: another kind of file, damaged, or cut short"
        ) from error
    with container:
        yield container
