"""The audio track of a file. In: a path. Out: decoded blocks of the first track that can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.container import MediaFile, open_media
from sonolora.media.iso_boxes import audio_codecs
from sonolora.media.pcm_headers import codec_code, pcm_codec, sample_bytes

SAMPLE_RATES = 1_000, 768_000  # Hz: beyond these a header is damaged or forged
MAX_CHANNELS = 64  # FFmpeg converts no more

Block = tuple[float | None, NDArray[Any]]  # seconds by the clock of the file, samples (samples, channels)


@dataclass
class AudioTrack:
    """One audio track. Its format is known once the first block has been decoded.

    `speakers` names the loudspeaker of each channel as FFmpeg does ("FL", "LFE"); empty where the file names none.
    """

    media: MediaFile
    stream: AudioStream
    sample_rate: int = 0
    channels: int = 0
    speakers: tuple[str, ...] = ()
    broken_packets: int = 0

    @property
    def path(self) -> Path:
        return self.media.path

    @property
    def container(self) -> str:
        """FFmpeg's name of the file format, which may be a list ("mov,mp4,m4a,3gp,3g2,mj2")."""
        return self.media.container.format.name

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec, "pcm_s24le"."""
        return pcm_codec(self.path, self.stream.codec_context.name)

    @property
    def start(self) -> float:
        """When the sound begins by the clock of the file, in seconds."""
        return float((self.stream.start_time or 0) * (self.stream.time_base or 0))

    def seek(self, seconds: float) -> bool:
        """Continue at a packet `seconds` after the start, or before; False if the file does not allow it."""
        if self.stream.time_base is None:
            return False
        with suppress(av.FFmpegError):
            self.media.container.seek(round((self.start + seconds) / self.stream.time_base), stream=self.stream)
            return True
        return False

    def blocks(self, sample_format: Literal["flt", "dbl"] = "flt") -> Iterator[Block]:
        """Decode the track in file order. Integers are scaled so that full scale is 1; floats may exceed it.

        Packets that cannot be decoded are counted in `broken_packets`.

        MediaError: a sample rate or channel layout that changes midway, a sample rate outside `SAMPLE_RATES`, more
        than `MAX_CHANNELS`, or the deadline of the file.
        """
        # Interleaved, because PyAV 18 crashes on planar frames of more than seven channels.
        converter = av.AudioResampler(format=sample_format)
        for frame in self._frames():
            names = tuple(channel.name for channel in frame.layout.channels)
            speakers = () if "NONE" in names else names
            if not self.channels:
                self.check_format(frame.sample_rate, len(names))
                self.sample_rate, self.channels, self.speakers = frame.sample_rate, len(names), speakers
            if (frame.sample_rate, len(names), speakers) != (self.sample_rate, self.channels, self.speakers):
                raise MediaError(self.path, "its sample rate or channel layout changes midway")
            time = frame.time
            for converted in converter.resample(frame):
                block = converted.to_ndarray().reshape(-1, len(names))
                yield time, block
                time = None if time is None else time + len(block) / frame.sample_rate

    def _frames(self) -> Iterator[AudioFrame]:
        decode = self._decoder()
        try:
            for packet in self.media.packets(self.stream):
                try:
                    frames = decode(packet)
                except av.FFmpegError:
                    self.broken_packets += 1
                else:
                    yield from frames
        except av.FFmpegError:  # the container itself breaks off
            self.broken_packets += 1

    def _decoder(self) -> Callable[[Packet[Any]], list[AudioFrame]]:
        context = self.stream.codec_context
        if self.codec == context.name:
            return self.stream.decode
        decoder = av.CodecContext.create(self.codec, "r")
        assert isinstance(decoder, AudioCodecContext)
        decoder.sample_rate, decoder.layout = context.sample_rate, context.layout
        frame_bytes = sample_bytes(self.codec) * context.layout.nb_channels
        rest = bytearray()

        def decode(packet: Packet[Any]) -> list[AudioFrame]:
            """FFmpeg has split the packets for samples of another size: collect whole ones."""
            rest.extend(bytes(packet))
            whole = len(rest) // frame_bytes * frame_bytes
            content = bytes(rest[:whole])
            del rest[:whole]
            return decoder.decode(Packet(content)) if content else []

        return decode

    def check_format(self, sample_rate: int, channels: int) -> None:
        """Raise `MediaError` for a sample rate outside `SAMPLE_RATES` or more than `MAX_CHANNELS`."""
        lowest, highest = SAMPLE_RATES
        if not lowest <= sample_rate <= highest:
            reason = f"its header says {sample_rate} samples a second; {lowest} to {highest} are possible"
            raise MediaError(self.path, reason)
        if channels > MAX_CHANNELS:
            raise MediaError(self.path, f"it has {channels} channels; at most {MAX_CHANNELS} can be read")


@contextmanager
def open_audio(path: Path, *, default: bool = False) -> Iterator[AudioTrack]:
    """The first audio track that can be decoded; with `default`, the one that players select is tried first.

    MediaError: see `open_media`; no audio track, or none with a known codec.
    """
    with open_media(path) as media:
        streams = audio_streams(media, default=default)
        if len(streams) > 1:
            streams.sort(key=lambda stream: not _sounds(path, stream.index))
        yield AudioTrack(media, streams[0])


def audio_streams(media: MediaFile, *, default: bool = False) -> list[AudioStream]:
    """The audio streams whose codec is known, in file order; with `default`, the one that players select comes first.

    MediaError if there is none, with the names of unknown codecs.
    """
    streams = list(media.container.streams.audio)
    if not streams:
        raise MediaError(media.path, "there is no audio track in it")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        names = audio_codecs(media.path) or [codec_code(media.path)]
        codecs = ", ".join(f"'{name}'" for name in names if name) or "an unknown codec"
        raise MediaError(media.path, f"its sound is in {codecs}, which cannot be decoded: convert it to WAV or FLAC")
    if default:
        best = media.container.streams.best("audio")
        known.sort(key=lambda stream: best is None or stream.index != best.index)
    return known


def _sounds(path: Path, index: int) -> bool:
    """Whether anything in a stream can be decoded."""
    with open_media(path) as media:
        stream = media.container.streams[index]
        assert isinstance(stream, AudioStream)
        try:
            return any(True for _ in AudioTrack(media, stream).blocks())
        except MediaError:
            return True  # it decodes, and raises the same error when it is read
