from __future__ import annotations

import base64
import hashlib
import re

import pytest

from sonolora.server.rest.page import FOLDER

VENDOR = FOLDER / "vendor"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.js"))


def test_the_page_is_for_browsers_and_json_for_programs(anonymous):
    assert anonymous.get("/").json()["openapi"]
    answer = anonymous.get("/", headers={"accept": "text/html,*/*"})
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    (inline,) = re.findall(r"<script type=\"importmap\">(.*?)</script>", answer.text)
    digest = re.search(r"'sha256-([^']+)'", policy)[1]
    assert hashlib.sha256(inline.encode()).digest().hex() == base64.b64decode(digest).hex()


def test_its_files_are_served_and_no_others(anonymous):
    answer = anonymous.get("/studio/app.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert anonymous.get("/studio/app.js", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    for path in ("../rest/page.py", "%2e%2e/rest/page.py", "vendor/README.md", "nothing.js"):
        assert anonymous.get(f"/studio/{path}").status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_modules_refer_to_nothing_outside(name):
    text = (FOLDER / name).read_text("utf-8")
    for target in re.findall(r"""\b(?:from|import)\s*["']([^"'\s]+)["']""", text):
        bare = {"preact", "preact/hooks", "@preact/signals", "@preact/signals-core", "htm", "uplot"}
        assert target in bare or ((FOLDER / name).parent / target).is_file(), f"{name} imports {target}"
    if not name.startswith("vendor/"):
        assert not re.search(r"https?://(?!\[)[a-z0-9.-]+\.[a-z]{2,}", text), "no request to any other host"


def test_vendored_files_are_the_ones_that_are_listed():
    listed = dict(re.findall(r"^\| (\S+) \|.*`([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE))
    files = [path for path in VENDOR.iterdir() if path.suffix in (".js", ".css")]
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    licences = {path.name for path in VENDOR.glob("LICENSE.*")}
    assert licences == {f"LICENSE.{name}" for name in ("preact", "signals", "htm", "uplot")}
