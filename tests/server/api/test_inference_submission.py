"""Requests for sounds, as the queue takes them: what the workers are asked for, and what is refused."""

from __future__ import annotations

import base64

import pytest

from sonolora.server.jobs.records import Kind, Result

APP = "/fal-ai/ltx-2.3-quality"
OWN_LORA = {"path": "https://example.com/lora.safetensors", "scale": 0.5}


def lora(**changes):
    return {"prompt": "x", "loras": [{**OWN_LORA, **changes}]}


FILE = {"url": "/files/abc/x.wav", "content_type": "audio/wav", "file_name": "x.wav", "file_size": 3}


@pytest.fixture
def ask(live, client):
    """Submits; what the job store has."""

    def ask(path, **body):
        answer = client.post(f"{APP}/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return live.store.request(answer.json()["request_id"])

    return ask


def test_what_was_not_sent_is_left_to_the_lora_and_the_base(ask):
    request = ask("text-to-audio", prompt="rain")
    assert (request.kind, request.mode, request.priority) == (Kind.GENERATE, "t2a", -1)
    options = request.options
    assert options["settings"] == {}
    assert options["passes"] == [{"mode": "t2a", "body": {"prompt": "rain"}, "names": {"seconds": "num_frames"}}]
    (sample,) = options["samples"]
    assert sample == {"prompt": "rain", "scale": 1.0, "seed": sample["seed"]} and 0 <= sample["seed"] < 1 << 31
    assert ask("text-to-audio", prompt="rain", seed=None).options["samples"][0]["seed"] != sample["seed"]


def test_what_was_sent_is_obeyed(live, ask):
    sent = {"num_frames": 48, "num_inference_steps": 15, "guidance_scale": 1, "negative_prompt": "hiss", "seed": 7}
    request = ask(
        "text-to-audio/lora",
        prompt="rain",
        loras=[OWN_LORA, {"path": "someone/rain", "weight_name": "a.safetensors", "transformer": "high"}],
        enable_prompt_expansion=True,
        **sent,
    )
    options = request.options
    assert options["settings"] == {"steps": 15, "cfg_scale": 1}
    assert options["passes"][0]["body"] == {"prompt": "rain", "negative_prompt": "hiss", "seconds": 2.0}
    assert options["samples"] == [{"prompt": "rain", "scale": 0.5, "seed": 7}]
    assert options["loras"] == [
        {"path": OWN_LORA["path"], "scale": 0.5, "weight_name": None},
        {"path": "someone/rain", "scale": 1.0, "weight_name": "a.safetensors"},
    ]
    lines = [line.message for line in live.store.logs(request.id)]
    assert [line.split()[0] for line in lines] == ["enable_prompt_expansion", "loras.1.transformer"]


SOUND = {"prompt": "x", "audio_url": "https://example.com/a.wav"}


@pytest.mark.parametrize(
    ("path", "body", "passes"),
    [
        ("audio-to-audio/lora", SOUND, [("a2a", {"reference": SOUND["audio_url"]})]),
        (
            "audio-inpainting/lora",
            {**SOUND, "mask_start_seconds": 1, "mask_end_seconds": 2},
            [("audio-inpaint", {"audio": SOUND["audio_url"], "time_ranges": [[1, 2]]})],
        ),
        (
            "audio-inpainting/lora",
            {**SOUND, "time_ranges": [[0, 1], [3, 4.5]]},
            [("audio-inpaint", {"audio": SOUND["audio_url"], "time_ranges": [[0, 1], [3, 4.5]]})],
        ),
        (
            "audio-outpainting/lora",
            {**SOUND, "extend_seconds_before": 1, "extend_seconds_after": 2},
            [
                ("audio-extend-prefix", {"audio": SOUND["audio_url"], "extend_seconds": 2}),
                ("audio-extend-suffix", {"audio": SOUND["audio_url"], "extend_seconds": 1}),
            ],
        ),
        (
            "video-to-audio/lora",
            {"video_url": "https://example.com/v.mp4", "prompt": "x", "duration": 3},
            [("v2a", {"video": "https://example.com/v.mp4", "seconds": 3})],
        ),
    ],
)
def test_our_own_endpoints(ask, path, body, passes):
    request = ask(path, **body, num_samples=3, seed=5, output_format="flac", stg_scale=0, guidance_scale=2)
    options = request.options
    assert [(one["mode"], one["body"]) for one in options["passes"]] == [
        (mode, {**fields, "prompt": "x"}) for mode, fields in passes
    ]
    assert request.mode == passes[0][0]
    assert [sample["seed"] for sample in options["samples"]] == [5, 6, 7]
    assert (options["format"], options["settings"]) == ("flac", {"stg_scale": 0, "cfg_scale": 2})


@pytest.mark.parametrize(
    ("path", "body", "loc", "part"),
    [
        ("text-to-audio", {}, ["prompt"], "Field required"),
        ("text-to-audio/lora", {"prompt": "x"}, ["loras"], "Field required"),
        ("text-to-audio/lora", {"prompt": "x", "loras": [OWN_LORA] * 4}, ["loras"], "at most 3"),
        ("text-to-audio/lora", {"prompt": "x", "loras": [{}]}, ["loras", 0, "path"], "Field required"),
        ("text-to-audio/lora", {"prompt": "x", "loras": [{"path": "/etc/x"}]}, ["loras", 0, "path"], "Hugging Face"),
        ("text-to-audio/lora", {"prompt": "x", "loras": [{"path": "file:///x"}]}, ["loras", 0, "path"], "http://"),
        ("text-to-audio/lora", lora(scale=1e9), ["loras", 0, "scale"], "less than or equal to 4"),
        ("audio-to-audio/lora", {**SOUND, **lora(scale=-3)}, ["loras", 0, "scale"], "greater than or equal to 0"),
        ("text-to-audio/lora", lora(weight_name="b.safetensors"), ["loras", 0, "weight_name"], "this path is a file"),
        (
            "text-to-audio/lora",
            lora(path="someone/rain/a.safetensors", weight_name="b.safetensors"),
            ["loras", 0, "weight_name"],
            "names a.safetensors already",
        ),
        ("text-to-audio", {"prompt": "x", "num_inference_steps": 7}, ["num_inference_steps"], "8"),
        ("text-to-audio", {"prompt": "x", "guidance_scale": 21}, ["guidance_scale"], "20"),
        ("text-to-audio", {"prompt": "x", "frames_per_second": 1}, ["num_frames"], "121 s; at most 60 s"),
        ("audio-inpainting/lora", SOUND, ["mask_start_seconds"], "or time_ranges"),
        ("audio-inpainting/lora", {**SOUND, "mask_start_seconds": 1}, ["mask_end_seconds"], "is missing"),
        (
            "audio-inpainting/lora",
            {**SOUND, "mask_start_seconds": 2, "mask_end_seconds": 1},
            ["mask_end_seconds"],
            "its end must be after its start",
        ),
        (
            "audio-inpainting/lora",
            {**SOUND, "mask_end_seconds": 1, "time_ranges": [[0, 1]]},
            ["time_ranges"],
            "not both",
        ),
        ("audio-outpainting/lora", SOUND, ["extend_seconds_after"], "or both"),
        ("audio-outpainting/lora", {**SOUND, "extend_seconds_before": 0.01}, ["extend_seconds_before"], "0.04"),
        ("audio-to-audio/lora", {**SOUND, "audio_url": "a.wav"}, ["audio_url"], "valid URL"),
        ("audio-to-audio/lora", {**SOUND, "num_samples": 5}, ["num_samples"], "4"),
        ("audio-to-audio/lora", {**SOUND, "output_format": "ogg"}, ["output_format"], "'flac'"),
        ("video-to-audio/lora", {"video_url": "https://x/v.mp4", "duration": 301}, ["duration"], "300"),
    ],
)
def test_what_is_refused_says_the_field_and_why(client, path, body, loc, part):
    answer = client.post(f"{APP}/{path}", json=body)
    assert answer.status_code == 422
    (fault,) = answer.json()["detail"]
    assert fault["loc"] == ["body", *loc] and part in fault["msg"], fault


def test_each_app_has_its_own_requests(live, client, ask):
    request = ask("text-to-audio", prompt="rain")
    status = client.get(f"{APP}/requests/{request.id}/status").json()
    assert status["response_url"] == f"{live.address}{APP}/requests/{request.id}"
    assert client.get(f"{APP}/text-to-audio/requests/{request.id}/status").status_code == 202
    assert client.get(f"/fal-ai/ltx23-trainer-v2/requests/{request.id}/status").status_code == 404
    assert client.post("/fal-ai/ltx23-trainer-v2/text-to-audio", json={"prompt": "x"}).status_code == 404
    assert client.post(f"{APP}/t2a", json={"prompt": "x"}).status_code == 404
    low = client.post(f"{APP}/text-to-audio", json={"prompt": "x"}, headers={"X-Fal-Queue-Priority": "low"})
    assert live.store.request(low.json()["request_id"]).priority == 1


def test_sync_mode_answers_with_the_sound_itself(live, client, ask):
    path = live.settings.folder / "x.wav"
    path.write_bytes(b"RIFF")
    for sync in (False, True):
        request = ask("text-to-audio", prompt="rain", sync_mode=sync)
        file = live.storage.adopt(path, "x.wav", "audio/wav", request_id=request.id, expires=None)
        body = {"audio": {**FILE, "url": file.address}, "prompt": "rain", "seed": 1}
        live.store.finish(request.id, Result(status=200, body=body))
        url = client.get(f"{APP}/requests/{request.id}").json()["audio"]["url"]
        assert url == (
            f"data:audio/wav;base64,{base64.b64encode(b'RIFF').decode()}" if sync else live.address + file.address
        )


def test_a_lora_may_come_in_the_request(live, client):
    content = b"\x01" * 9000
    lora = {"path": f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"}
    answer = client.post(f"{APP}/text-to-audio/lora", json={"prompt": "x", "loras": [lora]})
    (stored,) = live.store.request(answer.json()["request_id"]).options["loras"]
    assert live.storage.local(stored["path"]).read_bytes() == content
