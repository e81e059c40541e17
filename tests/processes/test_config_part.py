"""The part of the config of each child: enough for its role, and no secret of another role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streamer.config.changes import with_tasks
from streamer.config.model import Config, from_checked, from_mapping
from streamer.core.errors import ConfigError
from streamer.processes.assignment import Role
from streamer.processes.config_part import environment, part_of, secrets_in
from streamer.video.outputs.base import outputs_by_view
from tests.support.clips import write_clip

SECRETS = {
    "gate": "gateS3cret",
    "yard": "yardS3cret",
    "hook": "hookS3cret",
    "push": "pushS3cret",
    "page": "pageS3cret-S3cret",
}
EXPECTED = {
    (Role.CAPTURE, "gate"): {"gate"},
    (Role.CAPTURE, "clip"): set(),
    (Role.INFER, None): set(),
    (Role.EMIT, None): {"hook"},
    (Role.VIEW, "gate"): set(),
    (Role.PUSH, "gate-rtsp_push"): {"push"},
    (Role.WEB, None): {"page"},
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    task = {"task": "caption", "every": "1s"}
    return from_mapping(
        {
            "agent": "home",
            "timezone": "Europe/Berlin",
            "streams": {
                "gate": {"source": f"rtsp://user:{SECRETS['gate']}@127.0.0.1:9/x", "tasks": [task]},
                "yard": {"source": f"http://user:{SECRETS['yard']}@127.0.0.1:9/x", "tasks": [task]},
                "clip": {"source": str(write_clip(tmp_path / "clip.mp4", 5)), "tasks": [task]},
            },
            "sinks": [{"kind": "webhook", "url": f"http://127.0.0.1:9/h?key={SECRETS['hook']}"}],
            "outputs": [
                {"kind": "hls", "stream": "gate"},
                {"kind": "rtsp_push", "stream": "gate", "url": f"rtsp://user:{SECRETS['push']}@127.0.0.1:9/x"},
            ],
            "web": {"bind": "127.0.0.1:0", "token": SECRETS["page"]},
        }
    )


@pytest.mark.parametrize(("role", "target"), EXPECTED, ids=str)
def test_part_holds_the_secrets_of_its_role_only(config: Config, role: Role, target: str | None) -> None:
    part = part_of(config, role, target)
    text = json.dumps([part, secrets_in(part)])
    assert {name for name, secret in SECRETS.items() if secret in text} == EXPECTED[role, target]
    own = from_checked(part, is_part=True)
    assert (own.name, own.timezone) == (config.name, config.timezone)


def test_parts_keep_what_the_roles_need(config: Config) -> None:
    def own(role: Role, target: str | None = None) -> Config:
        return from_checked(part_of(config, role, target), is_part=True)

    assert own(Role.CAPTURE, "gate").streams == {"gate": config.streams["gate"]}
    assert own(Role.EMIT).sinks == config.sinks
    assert own(Role.WEB).web == config.web
    assert [output.kind for output in own(Role.WEB).outputs] == ["hls"]
    assert [output.label for output in own(Role.VIEW, "gate").outputs] == ["gate-hls", "gate-rtsp_push"]
    assert own(Role.PUSH, "gate-rtsp_push").outputs == config.outputs[1:]
    for role in (Role.INFER, Role.EMIT, Role.WEB):
        for name, stream in own(role).streams.items():
            assert stream.tasks == config.streams[name].tasks
            assert stream.source.pace == config.streams[name].source.pace
            kinds: list[Any] = [stream.source, config.streams[name].source]
            assert kinds[0].kind == kinds[1].kind
    assert set(outputs_by_view(own(Role.VIEW, "gate").outputs)) == set(outputs_by_view(config.outputs))


def test_files_are_checked_at_the_start_only(config: Config, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").unlink()
    more = [*config.raw["streams"]["gate"]["tasks"], {"task": "ocr"}]
    assert len(with_tasks(config, "gate", more).streams["gate"].tasks) == 2
    assert from_checked(part_of(config, Role.CAPTURE, "clip"), is_part=True).streams["clip"].source.pace == "file"
    with pytest.raises(ConfigError, match="no such file"):
        from_mapping(config.raw)


def test_summary_of_a_source_is_no_source_of_a_user() -> None:
    stream = {"source": {"kind": "rtsp", "pace": "live"}, "tasks": [{"task": "caption"}]}
    with pytest.raises(ConfigError, match="url"):
        from_mapping({"streams": {"gate": stream}})


def test_children_inherit_no_variable_with_a_secret(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "HF_TOKEN": "hub",
        "CAMERA_PASSWORD": "unused",
        "SOME_VALUE": SECRETS["gate"],
        "SOME_URL": f"rtsp://user:{SECRETS['yard']}@host/",
        "http_proxy": "http://user:pw@proxy:3128",
        "PLAIN": "text",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert variables.keys() & environment(Role.CAPTURE).keys() == {"PLAIN"}
    assert variables.keys() & environment(Role.INFER).keys() == {"http_proxy", "PLAIN", "HF_TOKEN"}
