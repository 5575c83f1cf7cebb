"""The files around the package: bounds of dependencies, the container, the hooks."""

from __future__ import annotations

import re
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from sonolora.core.setting_field import described
from sonolora.server.settings import ServerSettings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {one.name.lower(): one for one in map(Requirement, PROJECT["dependencies"])}
# Parts of these that are not public are used: a later version may lack them.
PRIVATE_PARTS = {"uvicorn": "server/net/protocol.py", "typer": "cli/help_pages.py"}


@pytest.mark.parametrize("name", PRIVATE_PARTS)
def test_what_is_not_public_is_bounded(name):
    assert (ROOT / "src" / "sonolora" / PRIVATE_PARTS[name]).exists()
    later = Version(version(name)).release
    assert REQUIREMENTS[name].specifier.contains(version(name))
    assert not REQUIREMENTS[name].specifier.contains(f"{later[0]}.{later[1] + 1}"), "needs an upper bound"


def test_every_dependency_is_pinned_for_the_scripts():
    pins = {
        re.split("==", line)[0].lower().replace("_", "-"): line.split("==")[1].strip()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    dev = map(Requirement, PROJECT["optional-dependencies"]["dev"])
    for one in [*REQUIREMENTS.values(), *dev]:
        assert one.specifier.contains(pins[one.name.lower().replace("_", "-")]), one


def instructions():
    """Of the Dockerfile, in their order: the word, and the rest of the line with its continuations."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


class TestDockerfile:
    def test_instructions_are_known(self):
        known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "VOLUME", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
        assert {word for word, _ in instructions()} <= known
        assert instructions()[0][0] == "FROM"

    def test_it_runs_as_another_user_with_one_volume(self):
        words = [word for word, _ in instructions()]
        (volume,) = [rest for word, rest in instructions() if word == "VOLUME"]
        (user,) = [rest for word, rest in instructions() if word == "USER"]
        assert user != "root" and words.index("USER") < words.index("ENTRYPOINT")
        variables = dict(
            pair.split("=", 1) for word, rest in instructions() if word == "ENV" for pair in shlex.split(rest)
        )
        folders = {name: value for name, value in variables.items() if value.startswith("/")}
        assert {"SONOLORA_SERVER", "SONOLORA_BASES", "SONOLORA_MODELS", "SONOLORA_CACHE"} <= set(folders)
        assert all(value.startswith(f"{volume}/") for value in folders.values())

    def test_what_it_copies_is_there_and_not_ignored(self):
        allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        for word, rest in instructions():
            if word == "COPY":
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists() and source in allowed

    def test_what_the_build_needs_is_copied(self):
        copied = " ".join(rest for word, rest in instructions() if word == "COPY")
        assert PROJECT["readme"] in copied and PROJECT["license-files"] == ["LICENSE"] and "LICENSE" in copied

    def test_its_command_is_one_of_ours(self):
        (command,) = [rest for word, rest in instructions() if word == "CMD"]
        first, *options = yaml.safe_load(command)
        assert first == "serve"
        assert {one.removeprefix("--") for one in options if one.startswith("--")} <= {
            n for n, *_ in described(ServerSettings)
        }


def test_compose_runs_the_image_of_the_dockerfile():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    (volume,) = [rest for word, rest in instructions() if word == "VOLUME"]
    (port,) = [rest for word, rest in instructions() if word == "EXPOSE"]
    assert port == str(ServerSettings.port)
    for service in compose["services"].values():
        assert service["build"] == "."
        assert service["volumes"] == [f"data:{volume}"]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"], "no other machine, unless someone says so"
        assert f"127.0.0.1:{port}/openapi.json" in service["healthcheck"]["test"][-1]
    assert list(compose["volumes"]) == ["data"]


def test_the_cluster_starts_the_server_with_options_that_it_has():
    cluster = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    first, *options = cluster["services"]["server"]["command"]
    assert first == "serve"
    given = {name.removeprefix("--"): value for name, _, value in (one.partition("=") for one in options)}
    ServerSettings(ROOT, **{name.replace("-", "_"): value for name, value in given.items()})
    assert given["ray-address"].partition(":")[0] in cluster["services"]
    extras = cluster["services"]["server"]["build"]["args"]["EXTRAS"].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    (kind,) = {one["kind"] for one in yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())} - {
        "PersistentVolumeClaim"
    }
    assert kind == "RayCluster"


def test_hooks_run_what_the_scripts_run():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    lint = (ROOT / "scripts" / "lint").read_text()
    for hook in local["hooks"]:
        tool = hook["entry"].removesuffix(" --force-exclude")
        assert hook["language"] == "system" and tool in lint
    assert "scripts/lint" in (ROOT / "scripts" / "test").read_text()


def test_the_tests_that_the_docs_name_are_there():
    named = {
        name
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"\btests/[\w/.-]+", page.read_text("utf-8"))
    }
    assert len(named) > 20
    assert not [name for name in sorted(named) if not (ROOT / name.rstrip(".")).exists()]
