from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from sonolora.data.clips import Clip
from sonolora.data.report import Report
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.video import probe_video
from sonolora.runs.artifacts import REPORT_PAGE, RunArtifacts
from sonolora.runs.report.report_page import put_clip, put_page
from sonolora.runs.report.shown import ShownClip

RATE = 16_000
EVIL = "\"><img src=x onerror=alert(1)>&'<script>alert(2)<script>"
NO_END = {"meta", "img", "input", "link", "br", "hr"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text of theirs alone), after a check that all are closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in NO_END:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.elements[self._open[-1]][2].append(data)

    def all(self, tag: str) -> Iterator[tuple[dict[str, str | None], str]]:
        return ((attributes, "".join(text)) for name, attributes, text in self.elements if name == tag)


def tone(seconds: float = 2.0, hertz: float = 1000) -> Waveform:
    time = np.arange(round(seconds * RATE)) / RATE
    return Waveform(np.tile(0.5 * np.sin(2 * np.pi * hertz * time), (2, 1)).astype(np.float32), RATE)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / REPORT_PAGE


def write(page: Path, *clips: Clip, report: Report | None = None, title: str = "Check") -> Page:
    artifacts = RunArtifacts(page.parent)
    shown = [put_clip(artifacts, number, clip) for number, clip in enumerate(clips, start=1)]
    put_page(artifacts, (report or Report()).as_json(), shown, title)
    return Page(page)


def test_every_clip_has_a_player_and_a_picture_of_what_is_trained(page: Path) -> None:
    half = tone()
    half.samples[:, RATE:] = 0
    found = write(page, Clip("first", "a bell", half), Clip("second", "", tone(1.0)))
    players = [attributes for attributes, _ in found.all("audio")]
    pictures = [attributes for attributes, _ in found.all("img")]
    assert [player["aria-label"] for player in players] == ["sound as trained of first", "sound as trained of second"]
    sound = decode_audio(page.parent / unquote(players[0]["src"] or "")).waveform
    np.testing.assert_allclose(sound.samples, half.samples, atol=1 / 32768)
    assert sound.sample_rate == RATE
    with Image.open(page.parent / unquote(pictures[0]["src"] or "")) as image:
        levels = np.asarray(image.convert("L"), dtype=float)
    # The tone fills the first half of the whole width, at mel 1000 of 2840, which is two thirds from the top.
    middle = levels.shape[1] // 2
    assert levels[:, : middle - 5].max() > 150 > 20 > levels[:, middle + 5 :].max()
    assert levels[:, middle // 2].argmax() / levels.shape[0] == pytest.approx(1 - 1000 / 2840, abs=0.02)
    assert "a bell" in [text for _, text in found.all("p")]
    assert [text for attributes, text in found.all("p") if attributes["class"] == "caption none"] == ["no caption"]


def test_the_reference_has_its_own_player_in_front(page: Path) -> None:
    found = write(page, Clip("pair", "a bell", tone(), reference=tone(hertz=500)))
    labels = {str(player["aria-label"]): str(player["src"]) for player, _ in found.all("audio")}
    assert list(labels) == ["reference of pair", "target of pair"]
    reference = decode_audio(page.parent / unquote(labels["reference of pair"])).waveform
    np.testing.assert_allclose(reference.samples, tone(hertz=500).samples, atol=1 / 32768)


def test_spans_lie_on_the_picture_where_they_are_in_the_sound(page: Path) -> None:
    found = write(page, Clip("clip", "", tone(), regenerate=((0.5, 1.0), (1.5, 2.0))))
    styles = [str(attributes["style"]) for attributes, _ in found.all("div") if attributes.get("class") == "span"]
    assert styles == ["left:25.000%;width:25.000%", "left:75.000%;width:25.000%"]
    assert "regenerated: 0.5 to 1 s, 1.5 to 2 s" in [text for _, text in found.all("span")]


def test_a_film_is_shown_with_its_sound(page: Path) -> None:
    film = np.zeros((25, 64, 96, 3), np.uint8)
    found = write(page, Clip("film", "", tone(1.0), frames=film, frame_rate=25.0))
    ((player, _),) = found.all("video")
    info = probe_video(page.parent / unquote(str(player["src"])))
    assert (info.width, info.height, info.frames) == (48, 32, 25)
    assert info.audio_seconds == pytest.approx(1.0, abs=0.1)


@pytest.fixture
def report() -> Report:
    report = Report()
    report.used("walk.wav", "2.000 s as wanted")
    report.measured("walk.wav", seconds=2.0, image="stereo")
    report.used("walk.txt")
    report.warn("walk.txt", "has the same caption as run.txt")
    report.fitted("run_start.wav", "trimmed from 3.000 s to 2.000 s")
    report.measured("run_start.wav", seconds=3.0, lufs=-20.5)
    report.skipped("short.wav", "too short")
    report.ignored("__MACOSX/", "macOS metadata")
    report.warn("walk.wav", "clipped")
    return report


def test_the_table_says_everything_that_the_report_says(page: Path, report: Report) -> None:
    found = write(page, Clip("run", "", tone()), Clip("walk", "", tone()), report=report)
    heads = [text for _, text in found.all("button")]
    assert heads == ["file", "status", "detail and warnings", "length, s", "loudness, LUFS", "image"]
    rows = [attributes for attributes, _ in found.all("tr") if "data-status" in attributes]
    assert [row["data-status"] for row in rows] == ["ignored", "fitted", "skipped", "used", "used"], (
        "of a caption, since it has a warning"
    )
    cells = [(attributes["data-value"], text) for attributes, text in found.all("td")]
    assert cells[1 + 5 : 6 + 5] == [
        ("", "trimmed from 3.000 s to 2.000 s"),
        ("3.0", "3.0"),
        ("-20.5", "-20.5"),
        ("", ""),
        ("skipped", "skipped"),
    ]
    assert [text for _, text in found.all("dd")] == ["2", "1", "1", "1", "2"]
    assert [attributes["href"] for attributes, _ in found.all("a")] == ["#clip-1", "#clip-2", "#clip-2"]


def test_a_clip_bears_the_warnings_of_all_its_files(page: Path, report: Report) -> None:
    write(page, Clip("run", "", tone()), Clip("walk", "", tone()), report=report)
    first, second = page.read_text(encoding="utf-8").split('id="clip-1"')[1].split('id="clip-2"')
    assert 'class="warnings"' not in first
    assert "<b>walk.txt</b>: has the same caption as run.txt" in second
    assert "<b>walk.wav</b>: clipped" in second


def test_every_scene_of_a_film_bears_the_warnings_of_the_film(page: Path) -> None:
    report = Report()
    report.fitted("film.mp4", "2 scenes")
    report.warn("film.mp4", "variable frame rate")
    found = write(page, Clip("film_scene1", "", tone()), Clip("film_scene2", "", tone()), report=report)
    assert page.read_text(encoding="utf-8").count("<b>film.mp4</b>: variable frame rate") == 3, "on top, too"
    assert [attributes["href"] for attributes, _ in found.all("a")] == ["#clip-1"]


def test_nothing_that_people_wrote_becomes_markup(page: Path) -> None:
    report = Report()
    report.used(f"{EVIL}.wav", EVIL)
    report.warn(f"{EVIL}.wav", EVIL)
    report.measured(f"{EVIL}.wav", image=EVIL)
    plain = write(page, Clip("plain", "", tone()), report=Report())
    found = write(page, Clip(EVIL, EVIL, tone()), report=report, title=EVIL)
    assert [tag for tag, _, _ in found.elements].count("script") == 1
    assert len(list(found.all("img"))) == len(list(plain.all("img"))) == 1
    assert not any(name.startswith("on") for _, attributes, _ in found.elements for name in attributes)
    assert EVIL in [text for _, text in found.all("h1")] + [text for _, text in found.all("title")]
    assert (EVIL in [text for _, text in found.all("h3")]) and (EVIL in [text for _, text in found.all("p")])
    assert [text for attributes, text in found.all("li")] == [f": {EVIL}", f": {EVIL}", EVIL]


def test_the_page_needs_nothing_from_elsewhere(page: Path, report: Report) -> None:
    found = write(page, Clip("walk", "", tone(), reference=tone()), report=report)
    addresses = [
        value
        for _, attributes, _ in found.elements
        for name, value in attributes.items()
        if name in ("src", "href") and value and not value.startswith("#")
    ]
    assert len(addresses) == 4
    for address in addresses:
        assert (page.parent / unquote(address)).is_file()
    html = page.read_text(encoding="utf-8")
    assert "://" not in html
    assert "url(" not in html


def test_a_page_without_clips_and_files_can_be_written(page: Path) -> None:
    put_page(RunArtifacts(page.parent), Report().as_json(), list[ShownClip](), "nothing")
    assert [text for _, text in Page(page).all("h1")] == ["nothing"]


@pytest.mark.parametrize("seconds", [0.5, 3.0417, 5.0, 60.0])
def test_the_time_axis_ends_with_the_length(page: Path, seconds: float) -> None:
    found = write(page, Clip("clip", "", tone(seconds)))
    ticks = [(str(a["style"]), text) for a, text in found.all("span") if str(a.get("style")).startswith("left:")]
    assert 4 <= len(ticks) <= 10
    assert ticks[0] == ("left:0.000%", "0 s")
    assert ticks[-1] == ("left:100%", f"{seconds:.4g} s")


def test_a_caption_stands_in_the_row_of_its_clip(page: Path) -> None:
    report = Report()
    report.used("walk.wav")
    report.used("walk.txt")
    found = write(page, Clip("walk", "steps on gravel", tone()), report=report)
    assert [attributes["data-value"] for attributes, _ in found.all("th") if "data-value" in attributes] == ["walk.wav"]
    assert "steps on gravel" in [text for _, text in found.all("q")]


def test_sounds_come_before_the_table_and_findings_before_both(page: Path, report: Report) -> None:
    write(page, Clip("walk", "", tone()), report=report)
    html = page.read_text(encoding="utf-8")
    assert html.index("What to look at first") < html.index('id="clip-1"') < html.index('id="files"')
