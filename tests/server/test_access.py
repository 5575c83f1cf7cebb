"""Who reaches what, for every route of the app: each is decided here, and a new one without a decision fails.

A member of another owner gets, for what it does not own, the very answer that it gets for what does not exist.
"""

from __future__ import annotations

import io
import secrets
import uuid
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import httpx
import pytest

from sonolora.server.datasets.dataset import Datasets
from sonolora.server.files.secret import load_secret, signature
from sonolora.server.jobs.assistant_process import Assistant
from sonolora.server.jobs.records import Kind as RequestKind
from sonolora.server.jobs.records import NewRequest, Result, Role

APPS = ("fal-ai/ltx23-trainer-v2/t2a", "fal-ai/ltx-2.3-quality/text-to-audio/lora", "sonolora/trainer/t2a/sweep")
CHECKED = {"files": [], "summary": {}, "warnings": [], "error": None, "clips": 0}


def _sound() -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 3200))
    return made.getvalue()


SOUND = _sound()


class Kind(Enum):
    PUBLIC = auto()  # anybody
    ADDRESS = auto()  # whoever knows an address that cannot be guessed
    KEY = auto()  # any key
    OPERATOR = auto()
    LIST = auto()  # any key, which sees what its owner has
    OWN = auto()  # the owner's keys and operators


@dataclass(frozen=True)
class Case:
    """A call to a route. `{id}` stands for the object's id, in the path and in strings of the body."""

    kind: Kind
    path: str
    what: str = ""  # the object that it is about
    json: Any = None
    content: bytes | None = None
    status: int = 200  # with access
    refused: int = 404  # without


@dataclass
class People:
    """Keys of three owners, and what the first one, Jo, has."""

    live: Any
    secrets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, owner, role in (
            ("jo", "Jo", Role.MEMBER),
            ("jo again", "Jo", Role.MEMBER),
            ("sam", "Sam", Role.MEMBER),
            ("ada", "Ada", Role.OPERATOR),
        ):
            self.secrets[name] = self.live.keys.add(name, owner=owner, role=role)[1]

    @property
    def jo(self) -> str:
        return self.secrets["jo"].partition(":")[0]

    def make(self, what: str) -> str:
        """The id of a new object of Jo's."""
        match what:
            case "queued" | "done":
                new = NewRequest(
                    endpoint="t2a", mode="t2a", key_id=self.jo, body={"training_data_url": "https://e.x/z"}
                )
                id = self.live.store.add_request(replace(new, options={"name": "rain", "base": "tiny"})).id
                folder = self.live.settings.run_folder(id)
                folder.mkdir(parents=True)
                (folder / "sound.wav").write_bytes(SOUND)
                if what == "done":
                    file = self.live.storage.adopt(
                        folder / "sound.wav", "lora.safetensors", "x/y", request_id=id, key_id=self.jo, expires=None
                    )
                    self.live.store.finish(id, Result(status=200, body={"lora_file": {"url": file.address}}))
                return id
            case "dataset":
                datasets = Datasets(self.live.settings.folder / "datasets")
                made = datasets.create("Rain", "t2a", self.jo)
                (made.files / "rain.wav").write_bytes(SOUND)
                return made.id
            case "upload":
                file = self.live.storage.new("a.bin", "x/y", key_id=self.jo)
                self.live.storage.begin(file)
                return file.id
            case "key":
                return self.live.keys.add("jo's phone", owner="Jo", role=Role.MEMBER)[0]
        raise AssertionError(what)

    def state(self, what: str, id: str) -> object:
        """All that a call could change."""
        match what:
            case "queued" | "done":
                return self.live.store.request(id), self.live.store.logs(id)
            case "dataset":
                made = Datasets(self.live.settings.folder / "datasets").find(id)
                return made and (made.info, made.names())
            case "upload":
                return self.live.storage.begun(id)
        return self.live.keys.find(id)

    def requests(self) -> int:
        return len(self.live.store.requests(limit=10_000))


MISSING = {
    "queued": lambda: str(uuid.uuid4()),
    "done": lambda: str(uuid.uuid4()),
    "dataset": lambda: secrets.token_urlsafe(9),
    "upload": lambda: secrets.token_urlsafe(24),
    "key": lambda: secrets.token_hex(8),
}


def _own(path: str, what: str, **more: Any) -> Case:
    return Case(Kind.OWN, path, what, **more)


def _cases() -> Iterator[tuple[str, Case]]:
    """Each route, as `METHOD path`, with the decision about it."""
    queue, one = "/queue/{app:path}/requests/{id}", "/fal-ai/ltx23-trainer-v2/requests/{id}"
    yield f"GET {queue}/status", _own(f"{one}/status", "queued", status=202)
    yield f"GET {queue}/status/stream", _own(f"{one}/status/stream", "queued")
    yield f"PUT {queue}/cancel", _own(f"{one}/cancel", "queued", status=202)
    yield f"GET {queue}/response", _own(f"{one}/response", "done")
    yield f"GET {queue}", _own(one, "done")
    for app in APPS:
        route = "/".join(app.split("/")[:2]) + "/{endpoint:path}"
        # The key comes before the body, which is invalid, so that nothing is queued.
        for face, ending in (("queue", ""), ("run", ""), ("run", "/stream")):
            yield f"POST /{face}/{route}{ending}", Case(Kind.KEY, f"/{face}/{app}{ending}", json={}, status=422)

    storage, announced = "/rest/storage", {"file_name": "a.bin", "content_type": "x/y"}
    yield f"POST {storage}/auth/token", Case(Kind.KEY, f"{storage}/auth/token", json={})
    for name in ("initiate", "initiate-multipart"):
        yield f"POST {storage}/upload/{name}", Case(Kind.KEY, f"{storage}/upload/{name}", json=announced)
    for prefix in ("", "/cdn"):
        yield f"POST {prefix}/files/upload", Case(Kind.KEY, f"{prefix}/files/upload", content=b"x")
        yield f"POST {prefix}/files/upload/multipart", Case(Kind.KEY, f"{prefix}/files/upload/multipart", content=b"")
        route, file = f"{prefix}/files/{{id}}/{{name}}", f"{prefix}/files/{{id}}/a.bin"
        yield f"GET {route}", Case(Kind.ADDRESS, f"{prefix}/files/unknown/a.bin", refused=404)
        yield f"PUT {route}", _own(file, "upload", content=b"x")
        yield f"PUT {route}/multipart/{{upload}}/{{number}}", _own(f"{file}/multipart/{{id}}/1", "upload", content=b"x")
        parts = {"parts": [{"partNumber": 1, "etag": "?"}]}  # which has not arrived
        yield (
            f"POST {route}/multipart/{{upload}}/complete",
            _own(f"{file}/multipart/{{id}}/complete", "upload", json=parts, status=400),
        )

    yield "GET /api/modes", Case(Kind.KEY, "/api/modes")
    yield from _dataset_cases()
    yield from _run_cases()
    yield "GET /api/session", Case(Kind.PUBLIC, "/api/session")
    yield "POST /api/session", Case(Kind.ADDRESS, "/api/session", json={"key": "?"}, refused=401)  # the key is the body
    yield "DELETE /api/session", Case(Kind.KEY, "/api/session")
    yield "GET /api/keys", Case(Kind.LIST, "/api/keys", "key")
    yield "POST /api/keys", Case(Kind.OPERATOR, "/api/keys", json={"name": "new"}, status=201)
    yield "PATCH /api/keys/{id}", Case(Kind.OPERATOR, "/api/keys/{id}", "key", json={"owner": "Kim"})
    yield "DELETE /api/keys/{id}", _own("/api/keys/{id}", "key")
    yield "GET /api/queue", Case(Kind.LIST, "/api/queue", "queued")
    yield "PATCH /api/queue/{id}", Case(Kind.OPERATOR, "/api/queue/{id}", "queued", json={"before": None})
    yield "GET /metrics", Case(Kind.OPERATOR, "/metrics")
    for path in ("/", "/health", "/openapi.json", "/api/openapi.json", "/.well-known/jwks.json"):
        yield f"GET {path}", Case(Kind.PUBLIC, path)
    yield "GET /rest/.well-known/jwks.json", Case(Kind.PUBLIC, "/rest/.well-known/jwks.json")
    yield "GET /queue/{id:path}/openapi.json", Case(Kind.PUBLIC, f"/{APPS[0]}/openapi.json")
    yield "GET /studio/{path:path}", Case(Kind.PUBLIC, "/studio/style.css")


def _dataset_cases() -> Iterator[tuple[str, Case]]:
    one = "/api/datasets/{id}"
    file = f"{one}/files/rain.wav"

    def own(route: str, path: str = "", **more: Any) -> tuple[str, Case]:
        method, _, ending = route.partition(" ")
        return f"{method} {one}{ending}", _own(path or f"{one}{ending}", "dataset", **more)

    yield "GET /api/datasets", Case(Kind.LIST, "/api/datasets", "dataset")
    yield "POST /api/datasets", Case(Kind.KEY, "/api/datasets", json={"name": "x"}, status=201)
    yield own("GET ")
    yield own("PATCH ", json={"name": "Wind"})
    yield own("DELETE ")
    yield own("GET /zip")
    yield own("PUT /captions", json={"captions": {"rain": "rain"}})
    yield own("PUT /masks/{clip}", f"{one}/masks/rain", json={"time_ranges": [[0.0, 0.1]]})
    yield own("POST /check", json={})
    yield own("POST /slicing", json={"file": "rain.wav"})
    yield own("POST /slices", json={"file": "rain.wav", "spans": [[0.0, 0.1]]})
    yield own("GET /files/{name}/shape", f"{file}/shape")
    yield own("GET /files/{name}/spectrogram", f"{file}/spectrogram")
    yield own("PUT /files/{name}", f"{one}/files/wind.wav", content=SOUND)
    yield own("GET /files/{name}", file)
    yield own("DELETE /files/{name}", file)
    yield own("DELETE /clips/{clip}", f"{one}/clips/rain")


def _run_cases() -> Iterator[tuple[str, Case]]:
    one = "/api/runs/{id}"
    new = {"mode": "t2a", "dataset": "{id}", "fields": {"rank": 7}}  # as far as this fault
    yield "POST /api/estimate", _own("/api/estimate", "dataset", json=new, status=422, refused=422)
    yield "POST /api/runs", _own("/api/runs", "dataset", json={**new, "fields": {}}, status=201, refused=422)
    sound = {"mode": "t2a", "run": "{id}", "prompts": ["rain"]}
    yield "POST /api/generations", _own("/api/generations", "done", json=sound, status=201, refused=422)
    yield "GET /api/runs", Case(Kind.LIST, "/api/runs", "done")
    yield f"GET {one}", _own(one, "done")
    yield f"PATCH {one}", _own(one, "done", json={"name": "wind"})
    for name, what, status in (
        ("events", "queued", 200),
        ("metrics", "done", 200),
        ("log", "done", 200),
        ("artifacts", "done", 200),
        ("card", "done", 200),
    ):
        yield f"GET {one}/{name}", _own(f"{one}/{name}", what, status=status)
    for name in ("pause", "resume", "cancel"):
        yield f"POST {one}/{name}", _own(f"{one}/{name}", "queued")
    yield f"POST {one}/retry", _own(f"{one}/retry", "done", json={})
    push = {"repo": "not a repository", "token": "t"}
    yield f"POST {one}/hub", _own(f"{one}/hub", "done", json=push, status=422)
    for ending in ("", "/shape", "/spectrogram"):
        artifact = f"{one}/artifacts/{{name:path}}{ending}"
        yield f"GET {artifact}", _own(f"{one}/artifacts/sound.wav{ending}", "done")
    for name in ("shape", "spectrogram"):
        unknown = Case(Kind.ADDRESS, f"/api/files/unknown/a.wav/{name}")
        yield f"GET /api/files/{{file}}/{{name}}/{name}", unknown


CASES = dict(_cases())


@pytest.fixture
def people(live, monkeypatch: pytest.MonkeyPatch) -> People:
    async def check(_: Assistant, task: dict[str, Any], progress: object = None) -> dict[str, Any]:  # noqa: ARG001
        return CHECKED

    monkeypatch.setattr(Assistant, "__call__", check)
    return People(live)


@pytest.fixture
def call(people: People, anonymous: httpx.Client) -> Callable[..., tuple[int, str]]:
    """The status and text of an answer; of a stream that is answered, only the status."""

    def call(method: str, case: Case, who: str | None, id: str = "") -> tuple[int, str]:
        headers = {} if who is None else {"authorization": f"Key {people.secrets[who]}"}
        with anonymous.stream(
            method, case.path.replace("{id}", id), json=_filled(case.json, id), content=case.content, headers=headers
        ) as answer:
            if "event-stream" not in answer.headers["content-type"]:
                answer.read()
                return answer.status_code, answer.text
            return answer.status_code, ""

    return call


def _filled(value: Any, id: str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one, id) for name, one in value.items()}
    return id if value == "{id}" else value


def test_every_route_is_decided(live) -> None:
    app = live.app
    while not hasattr(app, "routes"):
        app = app.app
    routes = [f"{method} {route.path}" for route in app.routes for method in route.methods - {"HEAD"}]
    assert sorted(routes) == sorted(CASES)


@pytest.mark.parametrize("route", CASES)
def test_route(route: str, people: People, call) -> None:
    case, method = CASES[route], route.partition(" ")[0]
    if case.kind == Kind.PUBLIC:
        assert call(method, case, None)[0] == case.status
        return
    if case.kind == Kind.ADDRESS:
        assert {call(method, case, who)[0] for who in (None, "sam", "ada")} == {case.refused}
        return
    made = [people.make(case.what) if case.what else "" for _ in range(3)]
    assert call(method, case, None, made[0])[0] == 401
    if case.kind == Kind.KEY:
        assert call(method, case, "sam")[0] == case.status
        return
    if case.kind == Kind.LIST:
        for who, sees in (("jo", True), ("jo again", True), ("sam", False), ("ada", True)):
            status, text = call(method, case, who)
            assert (status, made[0] in text) == (200, sees), who
        return
    before = people.state(case.what, made[0]) if case.what else None, people.requests()
    status, text = call(method, case, "sam", made[0])
    if case.kind == Kind.OPERATOR:
        assert (status, "operator" in text) == (403, True)
    else:
        missing = MISSING[case.what]()
        assert status == case.refused, text
        assert (status, text.replace(made[0], "?")) == _without(call(method, case, "sam", missing), missing)
    if case.what:
        assert (people.state(case.what, made[0]), people.requests()) == before
    with_access = (
        {"ada": made[0]} if case.kind == Kind.OPERATOR else {"jo": made[0], "jo again": made[1], "ada": made[2]}
    )
    for who, id in with_access.items():
        status, text = call(method, case, who, id)
        assert status == case.status, (who, text)


def _without(answer: tuple[int, str], id: str) -> tuple[int, str]:
    return answer[0], answer[1].replace(id, "?")


def test_a_session_reaches_what_its_key_does(live, people: People, anonymous: httpx.Client) -> None:
    id = people.make("done")
    for who, sees in (("jo again", 200), ("sam", 404), ("ada", 200)):
        answer = anonymous.post("/api/session", json={"key": people.secrets[who]}, headers={"origin": live.address})
        assert answer.json()["key"]["role"] == ("operator" if who == "ada" else "member")
        assert anonymous.get(f"/api/runs/{id}").status_code == sees
        assert anonymous.get(f"/api/runs/{id}/artifacts/sound.wav").status_code == sees
    anonymous.cookies.clear()
    # An address that a page was given is for whoever has it, as long as it is valid.
    path, expires = f"api/runs/{id}/artifacts/sound.wav", 9_999_999_999
    secret = load_secret(live.settings.folder / "files" / "secret")
    query = {"expires": expires, "signature": signature(secret, "output", path, expires)}
    assert anonymous.get(f"/{path}", params=query).status_code == 200
    assert anonymous.get(f"/{path}", params={**query, "signature": "0" * 64}).status_code == 401


def test_a_member_does_not_see_which_run_of_others_keeps_a_device(live, people: People, call) -> None:
    live.store.add_request(NewRequest(endpoint="t2a", mode="t2a", key_id=people.jo, body={}, priority=-9))
    running = live.store.claim()
    assert running and running.key_id == people.jo
    case = CASES["GET /api/queue"]
    assert running.id in call("GET", case, "jo")[1]
    assert running.id not in call("GET", case, "sam")[1] and "Jo" not in call("GET", case, "sam")[1]


def test_an_upload_of_another_owner_cannot_be_continued_with_a_token(people: People, anonymous: httpx.Client) -> None:
    id = people.make("upload")
    for who, status in (("sam", 404), ("jo again", 200)):
        key = {"authorization": f"Key {people.secrets[who]}"}
        token = anonymous.post("/rest/storage/auth/token", json={}, headers=key).json()["token"]
        answer = anonymous.put(f"/files/{id}/a.bin", content=b"x", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == status


def test_an_output_is_not_replaced(live, people: People, anonymous: httpx.Client) -> None:
    address = live.store.request(people.make("done")).result.body["lora_file"]["url"]
    for who in ("jo", "ada"):
        answer = anonymous.put(address, content=b"x", headers={"authorization": f"Key {people.secrets[who]}"})
        assert answer.status_code == 404
    assert anonymous.get(address).content == SOUND


@pytest.mark.parametrize("kind", list(RequestKind))
def test_a_file_in_a_request_is_one_of_its_owners(live, people: People, kind: RequestKind) -> None:
    """As a LoRA, as training data: another owner's is told to the worker as one that is not there."""
    from sonolora.server.jobs.active_job import ActiveJob

    address = live.store.request(people.make("done")).result.body["lora_file"]["url"]
    for host in (live.address, "https://another.name:1"):
        url = host + address
        for who, reached in (("jo", True), ("jo again", True), ("sam", False), ("ada", True)):
            id = people.secrets[who].partition(":")[0]
            options = {"loras": [{"path": url}], "samples": []} if kind == RequestKind.GENERATE else {}
            body = {} if kind == RequestKind.GENERATE else {"training_data_url": url}
            new = NewRequest(endpoint="t2a", mode="t2a", key_id=id, body=body, kind=kind, options=options)
            request = live.store.add_request(new)
            job = ActiveJob(request, body, live.settings.run_folder(request.id), "cpu", None, None)
            command = job.command(live.settings, live.storage, live.store.keys.access_of(id))
            assert bool(command["sources"]["known"][url]) == reached, who
