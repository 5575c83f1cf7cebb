from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sonolora.core.errors import MediaError
from sonolora.media.audio import Waveform
from sonolora.media.timeline import CLOCK
from sonolora.media.video import VIDEO_EXTENSIONS, decode_frames, frame_size, probe_video
from sonolora.media.write_audio import write_audio
from sonolora.media.write_video import write_video

# In each container what makes it hard: frames out of order, milliseconds, and in AVI no time of showing.
KINDS = [
    ("a.mp4", ("libx264", "aac")),
    ("a.mov", ("libx264", "pcm_s16le")),
    ("a.avi", ("mpeg4", "pcm_s16le")),
    ("b.avi", ("libx264", "libmp3lame")),
    ("c.avi", ("mpeg4", None)),
    ("a.mkv", ("libvpx-vp9", "libopus")),
    ("b.mkv", ("ffv1", "flac")),
    ("c.mkv", ("libx264", "aac")),
    ("d.mkv", ("libx264", "aac")),
]
# Frames that hang on frames behind the next key frame.
REORDERED = {"c.avi": {"bf": "2"}, "d.mkv": {"x264-params": "open-gop=1:keyint=12:bframes=3"}}


def _decoded_numbers(path: Path, numbers, **arguments) -> list[int]:
    return numbers(decode_frames(path, **{"frame_rate": 24, "width": 96, "height": 64, **arguments}))


def _colours(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Something smooth, so that resampling kernels may differ a little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("resolution", "sizes"),
    [
        ("low", [(512, 288), (512, 512), (288, 512)]),
        ("medium", [(768, 448), (768, 768), (448, 768)]),
        ("high", [(960, 544), (960, 960), (544, 960)]),
    ],
)
def test_frame_sizes_of_the_published_table(resolution, sizes) -> None:
    assert [frame_size(resolution, aspect_ratio) for aspect_ratio in ("16:9", "1:1", "9:16")] == sizes


@pytest.mark.parametrize(("name", "codecs"), KINDS)
def test_probe(tmp_path: Path, make_video, name: str, codecs: tuple[str, str | None]) -> None:
    make_video(tmp_path / name, codecs=codecs, options=REORDERED.get(name))
    info = probe_video(tmp_path / name)
    assert (info.width, info.height, info.frames, info.variable_frame_rate) == (96, 64, 72, False)
    assert (info.fps, info.seconds) == (pytest.approx(24, rel=1e-3), pytest.approx(3, abs=0.002))
    assert info.has_audio == (codecs[1] is not None)
    if info.has_audio:
        assert info.audio_seconds == pytest.approx(3, abs=0.03)
    assert info.warning is None


@pytest.mark.parametrize(("name", "codecs"), KINDS)
def test_at_its_own_rate_each_frame_comes_once(tmp_path: Path, make_video, numbers, name: str, codecs) -> None:
    make_video(tmp_path / name, codecs=codecs, options=REORDERED.get(name))
    assert _decoded_numbers(tmp_path / name, numbers, frames=72) == list(range(72))


@pytest.mark.parametrize(("name", "codecs"), KINDS)
def test_from_the_middle(tmp_path: Path, make_video, numbers, name: str, codecs) -> None:
    for picture_start in (0.0,) if name.endswith(".avi") else (0.0, 0.5):  # AVI shows the first frame longer instead
        make_video(tmp_path / name, codecs=codecs, frames=120, picture_start=picture_start, options=REORDERED.get(name))
        for first in (3, 30, 66):
            got = _decoded_numbers(tmp_path / name, numbers, frames=20, start=first / 24)
            assert got == list(range(first, first + 20))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_at_another_rate_or_speed_the_nearest_earlier_frame_is_taken(
    tmp_path: Path, make_video, numbers, name: str
) -> None:
    make_video(tmp_path / name)
    shown = np.round(np.arange(72) / 24, 3 if name.endswith(".mkv") else 9)
    for frame_rate, speed in itertools.product([8, 10, 23.976, 25, 30, 60], [1.0, 1.3, 0.6]):
        times = np.arange(int(2.9 / speed * frame_rate)) * speed / frame_rate
        expected = np.searchsorted(shown, times + CLOCK, side="right") - 1
        got = _decoded_numbers(tmp_path / name, numbers, frame_rate=frame_rate, frames=len(times), speed=speed)
        assert got == expected.tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "b.mkv"])
def test_variable_frame_rate(tmp_path: Path, make_video, numbers, name: str) -> None:
    gaps = np.random.default_rng(0).choice([0.020, 0.050, 0.150], 40)
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    make_video(tmp_path / name, codecs=("ffv1" if name == "b.mkv" else "libx264", None), times=times)
    info = probe_video(tmp_path / name)
    assert info.variable_frame_rate
    assert info.frames == 41
    assert info.seconds == pytest.approx(times[-1] + 1 / 24, abs=0.15)
    count = int(times[-1] * 30)
    expected = np.searchsorted(times, np.arange(count) / 30 + CLOCK, side="right") - 1
    assert _decoded_numbers(tmp_path / name, numbers, frame_rate=30, frames=count) == expected.tolist()


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (50, 50), (161, 33), (96, 64), (95, 63), (400, 300)])
@pytest.mark.parametrize("source", [(96, 64), (95, 63), (33, 121)])
def test_pictures_fill_the_size_and_are_cropped_about_the_centre(
    tmp_path: Path, size: tuple[int, int], source: tuple[int, int]
) -> None:
    picture = _colours(1, source[1], source[0])
    write_video(tmp_path / "a.mkv", picture[None], 24, None)
    (got,) = decode_frames(tmp_path / "a.mkv", frame_rate=24, frames=1, width=size[0], height=size[1])
    want = np.asarray(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.BICUBIC))
    difference = np.abs(got.astype(int) - want)
    assert difference.mean() < 3
    assert difference.max() < 24  # half a pixel of the crop, where the picture is steep


def test_shrinking_leaves_no_alias(tmp_path: Path) -> None:
    stripes = np.where(np.arange(600) % 2, 255, 0).astype(np.uint8)
    write_video(tmp_path / "a.mkv", np.broadcast_to(stripes[None, None, :, None], (1, 600, 600, 3)).copy(), 24, None)
    (got,) = decode_frames(tmp_path / "a.mkv", frame_rate=24, frames=1, width=224, height=224)
    assert got[:, 8:-8].std() < 3


@pytest.mark.parametrize(
    ("height", "label", "yuv"),
    [
        # Pure red as the standards code it.
        (64, None, (81, 90, 240)),  # BT.601
        (64, 1, (63, 102, 240)),  # BT.709
        (720, None, (63, 102, 240)),
        (720, 5, (81, 90, 240)),
    ],
)
def test_colours_go_by_their_label_or_else_by_custom(
    tmp_path: Path, height: int, label: int | None, yuv: tuple[int, int, int]
) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 24, width=96, height=height, pix_fmt="yuv444p")
        planes = np.empty((3, height, 96), np.uint8)
        planes[:] = np.array(yuv)[:, None, None]
        frame = av.VideoFrame.from_ndarray(planes, "yuv444p")
        if label:
            stream.codec_context.colorspace = frame.colorspace = label
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (got,) = decode_frames(path, frame_rate=24, frames=1, width=32, height=32)
    assert np.abs(got[16, 16].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize(
    ("matrix", "size", "red_corner"),
    [
        # Rows (a, b), (c, d) of the QuickTime file format: a point (x, y) is shown at (a x + c y, b x + d y).
        ((1, 0, 0, 1), (96, 64), (0, 0)),
        ((0, 1, -1, 0), (64, 96), (0, 1)),
        ((-1, 0, 0, -1), (96, 64), (1, 1)),
        ((0, -1, 1, 0), (64, 96), (1, 0)),
    ],
)
def test_a_turned_phone(tmp_path: Path, matrix, size: tuple[int, int], red_corner: tuple[int, int]) -> None:
    path = tmp_path / "a.mp4"
    picture = np.full((64, 96, 3), 60, np.uint8)
    picture[:32, :48] = (220, 20, 20)
    write_video(path, np.repeat(picture[None], 24, axis=0), 24, None)
    content = path.read_bytes()
    at = content.index(b"tkhd") + 44
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert content[at : at + 36] == identity
    a, b, c, d = (entry << 16 for entry in matrix)
    path.write_bytes(content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + 36 :])

    info = probe_video(path)
    assert (info.width, info.height) == size
    (frame,) = decode_frames(path, frame_rate=24, frames=1, width=size[0], height=size[1])
    quarters = frame[size[1] // 4 :: size[1] // 2, size[0] // 4 :: size[0] // 2, 0]  # (2, 2)
    assert quarters.shape == (2, 2)
    assert np.unravel_index(quarters.argmax(), (2, 2)) == red_corner


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    wide = _colours(2, 64, 96)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 24, {"crf": "4"}, width=48, height=64, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        squeezed = np.asarray(Image.fromarray(wide).resize((48, 64), Image.Resampling.BICUBIC))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(squeezed)))
        container.mux(stream.encode(None))
    info = probe_video(path)
    assert (info.width, info.height) == (96, 64)
    (got,) = decode_frames(path, frame_rate=24, frames=1, width=96, height=64)
    assert np.abs(got.astype(int) - wide).mean() < 4


@pytest.mark.parametrize("name", [f"a{extension}" for extension in VIDEO_EXTENSIONS])
def test_what_ends_too_early_is_refused(tmp_path: Path, make_video, numbers, name: str) -> None:
    make_video(tmp_path / name, frames=24, codecs=None if name != "a.avi" else ("mpeg4", None))
    assert _decoded_numbers(tmp_path / name, numbers, frames=24)[-1] == 23
    with pytest.raises(MediaError, match=r"ends at 1.00 s, and is needed until 1.00 s"):
        _decoded_numbers(tmp_path / name, numbers, frames=25)
    with pytest.raises(MediaError, match=r"ends at 1.00 s, and is needed until 2.04 s"):
        _decoded_numbers(tmp_path / name, numbers, frames=2, start=2.0)


@pytest.mark.parametrize("name", [f"a{extension}" for extension in VIDEO_EXTENSIONS])
def test_the_last_frame_can_stay(tmp_path: Path, make_video, numbers, name: str) -> None:
    make_video(tmp_path / name, frames=24, codecs=None if name != "a.avi" else ("mpeg4", None))
    assert _decoded_numbers(tmp_path / name, numbers, frames=33, repeat_last=True) == [*range(24), *[23] * 9]
    assert _decoded_numbers(tmp_path / name, numbers, frames=3, start=2.0, repeat_last=True) == [23] * 3
    assert _decoded_numbers(tmp_path / name, numbers, frames=9, repeat_last=True) == list(range(9))


def _noisy(path: Path, codec: str) -> None:
    """A video of noise, whose bytes are spread evenly over its three seconds."""
    noise = np.random.default_rng(0).integers(0, 256, (72, 64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 24, {"g": "12"}, width=96, height=64, pix_fmt="yuv420p")
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.avi", "mpeg4")])
def test_cut_off_files_say_so(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, codec: str) -> None:
    path = tmp_path / name
    _noisy(path, codec)
    content = path.read_bytes()
    capfd.readouterr()
    path.write_bytes(content[: len(content) // 2])
    info = probe_video(path)
    assert info.seconds == pytest.approx(1.5, abs=0.3)
    assert info.warning is not None
    assert f"header says 3.00 s, it has {info.seconds:.2f} s" in info.warning
    whole = int(info.seconds * 24) - 3
    assert decode_frames(path, frame_rate=24, frames=whole, width=32, height=32).shape == (whole, 32, 32, 3)
    with pytest.raises(MediaError, match=r"(ends|broken) at"):
        decode_frames(path, frame_rate=24, frames=72, width=32, height=32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "ffv1")])
def test_damage_is_refused_where_it_is_met(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    _noisy(path, codec)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    path.write_bytes(content)
    decode_frames(path, frame_rate=24, frames=24, width=32, height=32)
    with pytest.raises(MediaError, match=r"damaged: .* at 1\.\d\d s"):
        decode_frames(path, frame_rate=24, frames=72, width=32, height=32)


def test_cut_without_encoding_anew(tmp_path: Path, make_video, numbers) -> None:
    make_video(tmp_path / "whole.mkv", codecs=("mpeg4", None))
    cut = tmp_path / "cut.mkv"
    with av.open(str(tmp_path / "whole.mkv")) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(source.streams.video[0])):
            if index >= 5 and packet.size:
                packet.stream = stream
                target.mux(packet)
    expected = [12] * 8 + list(range(13, 60))  # five frames are gone, up to the key frame seven cannot be decoded
    assert _decoded_numbers(cut, numbers, frames=55) == expected


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_what_an_edit_list_hides_is_not_there(tmp_path: Path, make_video, numbers, name: str) -> None:
    make_video(tmp_path / name, picture_start=-0.25, sound_start=-0.25)
    info = probe_video(tmp_path / name)
    assert (info.frames, info.seconds) == (66, pytest.approx(2.75))
    assert info.audio_seconds == pytest.approx(2.75, abs=0.03)
    assert info.warning is None
    assert _decoded_numbers(tmp_path / name, numbers, frames=66) == list(range(6, 72))


def test_what_is_no_video_is_refused(tmp_path: Path, tones) -> None:
    write_audio(tmp_path / "sound.m4a", tones(440, seconds=0.2))
    (tmp_path / "sound.m4a").rename(tmp_path / "sound.mp4")
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    (tmp_path / "image.png").rename(tmp_path / "image.mp4")
    (tmp_path / "text.mkv").write_text("not a video\n" * 100)
    (tmp_path / "empty.avi").touch()
    for name, reason in {
        "sound.mp4": "no moving picture",
        "image.mp4": "not audio or video",
        "text.mkv": "not audio or video",
        "empty.avi": "empty",
        "gone.mov": "no such file",
    }.items():
        for read in (probe_video, lambda path: decode_frames(path, frame_rate=24, frames=1, width=32, height=32)):
            with pytest.raises(MediaError, match=reason) as caught:
                read(tmp_path / name)
            assert str(caught.value).startswith(f"{name}: ")


def test_cover_of_a_record_is_no_video(tmp_path: Path, tones) -> None:
    path = tmp_path / "a.mp4"
    wave: Waveform = tones(440, 440, seconds=0.2)
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", 48_000, layout="stereo")
        cover = container.add_stream("png", 24, width=32, height=32, pix_fmt="rgb24")
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.samples.T).reshape(1, -1), "flt", "stereo")
        frame.sample_rate = 48_000
        container.mux(sound.encode(frame) + sound.encode(None))
        container.mux(cover.encode(av.VideoFrame(32, 32, "rgb24")) + cover.encode(None))
    with pytest.raises(MediaError, match="no moving picture"):
        probe_video(path)
