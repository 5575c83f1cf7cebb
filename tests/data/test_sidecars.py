"""Captions, tables of captions and masks: what is read, and that everything wrong is named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sonolora.core.errors import InputError
from sonolora.data.dataset_files import discover
from sonolora.data.report import Report
from sonolora.data.sidecars import read_captions, read_masks
from sonolora.modes import MODES


@pytest.fixture
def captions(tmp_path: Path):
    """captions(mode) of the files in tmp_path, and the statuses of those that are no clips."""

    def read(mode: str = "t2a"):
        files, report = discover(tmp_path), Report()
        texts = read_captions(MODES[mode].pair(files.names), files, report)
        for name in files.names:
            if name.endswith((".wav", ".mp4", ".txt")):
                report.used(name)
        return texts, {entry["file"]: entry for entry in report.as_json()["files"]}

    return read


def write(folder: Path, **contents: str | bytes) -> None:
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_every_caption_that_cannot_be_read_is_named_in_one_error(tmp_path, captions) -> None:
    for name, content in (("a", b"a\0b"), ("b", b"a bell"), ("c", b"{\\rtf1 x}"), ("d", b'{"a": 1}'), ("e", b"\x81")):
        (tmp_path / f"{name}.wav").touch()
        (tmp_path / f"{name}.txt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        captions()
    assert [item.msg.split(":")[0] for item in caught.value.items] == ["a.txt", "c.txt", "d.txt", "e.txt"]
    assert all(item.loc == ("body", "training_data_url") for item in caught.value.items)


def test_a_caption_in_windows_1252_is_used_and_shown(tmp_path, captions) -> None:
    write(tmp_path, a_dot_wav="", a_dot_txt="the cat’s purr".encode("cp1252"))
    texts, files = captions()
    assert texts == {"a": "the cat’s purr"}
    assert "'the cat’s purr'" in files["a.txt"]["warnings"][0]


CSV = 'file_name,text\na.wav,"a bell, rung"\ndata/b.wav,a  gong\n'
ROWS = ({"file_name": "a.wav", "caption": "a bell, rung", "bpm": 3}, {"file_name": "b.wav", "caption": "a gong"})
JSONL = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("metadata.csv", CSV),
        ("metadata.csv", "\ufeff" + CSV),
        ("metadata.csv", CSV.encode("utf-16")),  # "Unicode text" of a spreadsheet
        ("metadata.csv", 'file_name; text\na.wav;a bell, rung\nb.wav; "a gong"\n'),
        ("metadata.csv", 'text\tfile_name\n"a bell, rung"\ta.wav\na gong\tdata\\B.WAV\n'),
        ("metadata.jsonl", JSONL),
        # Ends of a line in Unicode, which JSON allows within a text.
        ("metadata.jsonl", JSONL.replace("a gong", "a\u2028gong").replace("bell,", "bell,\x85")),
    ],
)
def test_tables_give_captions_by_file_name(tmp_path, captions, name, table) -> None:
    write(tmp_path, a_dot_wav="", data__b_dot_wav="", c_dot_wav="")
    (tmp_path / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    texts, files = captions()
    assert texts == {"a": "a bell, rung", "b": "a gong", "c": ""}
    assert (files[name]["status"], files[name]["detail"]) == ("used", "captions of 2 clips")
    assert files[name]["warnings"] == ()


def test_a_text_file_overrules_a_table(tmp_path, captions) -> None:
    write(tmp_path, a_dot_wav="", a_dot_txt="a drum", b_dot_wav="", metadata_dot_csv=CSV)
    texts, files = captions()
    assert texts == {"a": "a drum", "b": "a gong"}
    assert files["metadata.csv"]["detail"] == "captions of 1 clip"
    assert files["metadata.csv"]["warnings"] == ("not used for a.wav, which have a caption already",)


def test_pairs_take_the_caption_of_the_target_or_the_reference(tmp_path, captions) -> None:
    write(tmp_path, x_start_dot_wav="", x_end_dot_wav="", y_start_dot_wav="", y_end_dot_wav="")
    (tmp_path / "metadata.csv").write_text("file_name,prompt\nx_end.wav,muffle it\ny_start.wav,brighten it\n")
    texts, _ = captions("a2a")
    assert texts == {"x": "muffle it", "y": "brighten it"}


def test_rows_that_are_of_no_use_are_named(tmp_path, captions) -> None:
    write(tmp_path, a_dot_wav="")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,a bell\nA.wav,a gong\nz.wav,who\n,nobody\nb.wav\n")
    texts, files = captions()
    assert texts == {"a": "a bell"}
    assert files["metadata.csv"]["warnings"] == (
        "line 3 is the second for A.wav, and is not used; "
        "line 5 has no file_name or no text in words, and is not used; "
        "line 6 has no file_name or no text in words, and is not used",
        "names files that are not clips here: z.wav",
    )


def test_captions_that_a_table_garbles_are_named_and_not_used(tmp_path, captions) -> None:
    write(tmp_path, **{f"{name}_dot_wav": "" for name in "abcd"})
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,a dog, barking\nb.wav,a\x1b[31m cat\nc.wav,a cow\n")
    texts, files = captions()
    assert texts == {"a": "", "b": "", "c": "a cow", "d": ""}
    (warning,) = files["metadata.csv"]["warnings"]
    assert "line 2, for a.wav, is not used: it has more cells than the first line has columns" in warning
    assert "line 3, for b.wav, is not used: its caption: holds the control character 0x1b" in warning


def test_half_a_character_in_a_table_reaches_neither_tokenizer_nor_report(tmp_path, captions) -> None:
    write(tmp_path, a_dot_wav="", b_dot_wav="")
    rows = ({"file_name": "a.wav", "text": "a \ud800 dog"}, {"file_name": "\udc00", "text": "x"})
    rows = (*rows, {"file_name": "b.wav", "text": "a cat"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts, files = captions()
    assert texts == {"a": "", "b": "a cat"}
    (warning,) = files["metadata.jsonl"]["warnings"]
    assert "line 1, for a.wav, is not used" in warning and "line 2 has no file_name" in warning
    warning.encode()


def test_a_table_in_windows_1252_is_used_and_shown(tmp_path, captions) -> None:
    write(tmp_path, a_dot_wav="", metadata_dot_csv="file_name,text\na.wav,un café bruyant\n".encode("cp1252"))
    texts, files = captions()
    assert texts == {"a": "un café bruyant"}
    assert "un café bruyant" in files["metadata.csv"]["warnings"][0]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metadata.csv", "name,text\na.wav,a bell\n", "has no column file_name; it has name, text"),
        ("metadata.csv", "file_name,bpm\na.wav,120\n", "has no column of captions, such as text, caption, captions"),
        ("metadata.csv", "", "has no column file_name; it has none"),
        ("metadata.csv", b"file_name,text\na.wav,caf\x81\n", "not valid UTF-8"),
        ("metadata.csv", "file_name,text\na,a bell\n", "no clip takes its caption from it: it names a; names need"),
        ("metadata.jsonl", "{", "line 1 is not JSON"),
        ("metadata.jsonl", "[1]", "line 1 is not a JSON object"),
        ("metadata.jsonl", "[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_table_without_captions_is_skipped_with_the_reason(tmp_path, captions, name, content, reason) -> None:
    write(tmp_path, a_dot_wav="")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    texts, files = captions()
    assert texts == {"a": ""}
    assert files[name]["status"] == "skipped"
    assert files[name]["detail"].startswith(reason)


@pytest.fixture
def masks(tmp_path: Path):
    def read(**contents: str):
        for name, content in contents.items():
            (tmp_path / f"{name}.wav").touch()
            (tmp_path / f"{name}_mask.json").write_text(content)
        files, report = discover(tmp_path), Report()
        found = read_masks(MODES["audio-inpaint"].pair(files.names).samples, files, 5.0, report)
        for name in files.names:
            report.used(name)
        warnings = {entry["file"]: entry["warnings"] for entry in report.as_json()["files"] if entry["warnings"]}
        return found, warnings

    return read


def test_a_bad_range_beside_a_good_one_is_named_and_does_no_harm(masks) -> None:
    found, warnings = masks(a="[[1, 2], [3, 3], [-2, -1]]", b="[[4, 9]]", c="[[0, 5]]")
    assert found == {"a": [(1, 2), (3, 3), (-2, -1)], "b": [(4, 9)], "c": [(0, 5)]}
    assert warnings == {
        "a_mask.json": (
            "[3, 3] is ignored: its end must be after its start, by 0.001 s; [-2, -1] is ignored: it lies before the "
            "start of the clip",
        ),
        "b_mask.json": ("[4, 9] is cut to [4, 5]: the clip is 5 s long",),
    }


def test_masks_that_are_malformed_or_mark_nothing_are_all_named(masks) -> None:
    with pytest.raises(InputError) as caught:
        masks(a="[[2, 2]]", b="[[1, 2]]", c="[[5, 6], [7, 8]]", d="{}", e="[[NaN, 1]]")
    assert [item.msg.split(":")[0] for item in caught.value.items] == [
        "a_mask.json", "c_mask.json", "d_mask.json", "e_mask.json",
    ]  # fmt: skip
    assert "a_mask.json: no range lies inside the clip: [2, 2] is ignored" in str(caught.value)
