from __future__ import annotations

import io
import zipfile

import pytest
from rest_support import packed, tone

TONES = {"a.wav": tone(), "a.txt": b"a low tone", "b.wav": tone(880), "b.txt": b"a high tone"}


def test_a_zip_becomes_clips_and_a_zip_again(client, dataset):
    found = dataset({"clips.zip": packed({f"folder/{name}": data for name, data in TONES.items()})})
    assert [(clip["name"], clip["caption"], clip["status"]) for clip in found["clips"]] == [
        ("a", "a low tone", None),
        ("b", "a high tone", None),
    ]
    answer = client.get(f"/api/datasets/{found['id']}/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == TONES
    assert client.get("/api/datasets").json()["datasets"][0]["clips"] == 2


def test_captions_of_a_table_become_files(dataset):
    found = dataset({"x.zip": packed({"a.wav": tone(), "metadata.csv": b"file_name,text\na.wav,from the table\n"})})
    assert [(clip["name"], clip["caption"]) for clip in found["clips"]] == [("a", "from the table")]
    assert found["others"] == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.pdf", b"x", "no sound, video"),
        ("broken.zip", b"no archive", "not a .zip archive"),
        ("twice.zip", packed({"a/x.wav": b"1", "b/X.wav": b"2"}), "unique"),
    ],
    ids=["other kind", "no archive", "one name twice"],  # those of the content would have its time in them
)
def test_what_cannot_be_used_is_refused_and_leaves_nothing(client, dataset, name, content, reason):
    id = dataset(TONES)["id"]
    answer = client.put(f"/api/datasets/{id}/files/{name}", content=content)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"][0]["msg"]
    assert len(client.get(f"/api/datasets/{id}").json()["clips"]) == 2


@pytest.mark.parametrize("name", ["..%2f..%2fserver.db", "%2e%2e", "a.wav%2f..%2f..%2fdataset.json"])
def test_no_path_leads_out_of_a_dataset(client, dataset, name):
    id = dataset(TONES)["id"]
    assert client.get(f"/api/datasets/{id}/files/{name}").status_code in (404, 422)


def test_captions_and_masks_are_edited(client, dataset):
    found = dataset(TONES, "audio-inpaint")
    id = found["id"]
    assert "nothing is marked" in found["clips"][0]["missing"]
    client.put(f"/api/datasets/{id}/captions", json={"captions": {"a": "  a new\ncaption ", "b": ""}})
    client.put(f"/api/datasets/{id}/masks/a", json={"time_ranges": [[0.4, 0.52], [0.12, 0.2]]})
    found = client.get(f"/api/datasets/{id}").json()
    assert [(clip["caption"], clip["mask"]) for clip in found["clips"]] == [
        ("a new caption", [[0.12, 0.2], [0.4, 0.52]]),
        ("", []),
    ]
    assert found["clips"][0]["missing"] is None
    assert client.put(f"/api/datasets/{id}/masks/a", json={"time_ranges": [[0.4, 0.2]]}).status_code == 422
    assert client.put(f"/api/datasets/{id}/captions", json={"captions": {"../a": "x"}}).status_code == 422


def test_pairs_say_what_they_lack(client, dataset):
    found = dataset({"x_start.wav": tone(), "x_end.wav": tone(), "y_end.wav": tone(), "z.wav": tone()}, "a2a")
    assert [
        (clip["name"], [one["role"] for one in clip["sounds"]], bool(clip["missing"])) for clip in found["clips"]
    ] == [
        ("x", ["reference", "target"], False),
        ("y", ["target"], True),
        ("z", ["target"], True),
    ]
    id = found["id"]
    assert client.delete(f"/api/datasets/{id}/clips/x").json()["clips"][0]["name"] == "y"
    assert client.patch(f"/api/datasets/{id}", json={"mode": "t2a", "trigger_phrase": " zap "}).json()["mode"] == "t2a"
    assert client.patch(f"/api/datasets/{id}", json={"mode": "t2b"}).status_code == 422


def test_pictures_and_figures_of_a_sound(client, dataset):
    id = dataset(TONES)["id"]
    shape = client.get(f"/api/datasets/{id}/files/a.wav/shape").json()
    assert shape["seconds"] == pytest.approx(0.6)
    assert max(shape["high"]) == pytest.approx(9000 / 32768, abs=0.01)
    assert len(shape["low"]) == len(shape["high"]) == 600
    assert client.get(f"/api/datasets/{id}/files/a.wav/spectrogram").content.startswith(b"\x89PNG")
    assert client.get(f"/api/datasets/{id}").json()["clips"][0]["sounds"][0]["seconds"] == pytest.approx(0.6)
    client.put(f"/api/datasets/{id}/files/bad.wav", content=b"no sound")
    assert client.get(f"/api/datasets/{id}/files/bad.wav/shape").json()["detail"][0]["type"] == "unreadable_media"


def test_a_recording_is_cut_at_its_pauses(client, dataset):
    recording = tone(seconds=4.0, gaps=((1.0, 1.6), (2.2, 2.3), (3.0, 3.5)))
    id = dataset({"long.wav": recording})["id"]
    planned = client.post(f"/api/datasets/{id}/slicing", json={"file": "long.wav", "pause": 0.3, "minimum": 0.2}).json()
    assert planned["spans"] == [[0.0, 1.02], [1.58, 3.02], [3.48, 4.0]]
    fixed = client.post(f"/api/datasets/{id}/slicing", json={"file": "long.wav", "by": "length", "length": 1.5}).json()
    assert fixed["spans"] == [[0.0, 1.5], [1.5, 3.0], [3.0, 4.0]]
    found = client.post(f"/api/datasets/{id}/slices", json={"file": "long.wav", "spans": planned["spans"]}).json()
    assert [clip["name"] for clip in found["clips"]] == ["long_001", "long_002", "long_003"]
    assert client.get(f"/api/datasets/{id}/files/long_002.wav/shape").json()["seconds"] == pytest.approx(1.44)
    outside = client.post(f"/api/datasets/{id}/slices", json={"file": "long_001.wav", "spans": [[5, 6]]})
    assert outside.status_code == 422


@pytest.mark.usefixtures("assistant_here")
def test_the_check_says_what_happens_to_each_clip(client, dataset):
    id = dataset({**TONES, "short.wav": tone(seconds=0.2)})["id"]
    checked = client.post(f"/api/datasets/{id}/check", json={"fields": {"audio_duration_seconds": 0.5}}).json()
    assert (checked["clips"], checked["error"]) == (2, None)
    found = client.get(f"/api/datasets/{id}").json()
    assert [(clip["name"], clip["status"]) for clip in found["clips"]] == [
        ("a", "fitted"),
        ("b", "fitted"),
        ("short", "skipped"),
    ]
    assert "trimmed from 0.600 s" in found["clips"][0]["detail"]
    assert found["check"]["current"]
    client.put(f"/api/datasets/{id}/captions", json={"captions": {"a": "other"}})
    assert not client.get(f"/api/datasets/{id}").json()["check"]["current"]
    refused = client.post(f"/api/datasets/{id}/check", json={"fields": {"audio_duration_seconds": 9}}).json()
    assert "the longest lasts 0.60 s" in refused["error"][0]["msg"]
