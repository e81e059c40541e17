"""The part of the config that a child process has: the data that its role needs, without the secrets of other roles.

Capture decodes bytes from outside. What its memory, its environment or a core file can disclose is its own camera's
password, and nothing of other cameras, of sinks, of outputs or of the page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from streamer.config.model import Config
from streamer.core import proxies
from streamer.core.redact import redact, remembered
from streamer.processes.assignment import Role
from streamer.video.outputs.base import OutputSettings, ViewId
from streamer.video.outputs.rtsp_push import RtspPush

ELSEWHERE = "rtsp://elsewhere.invalid"
"""URL of a push output outside its push process."""
_SECRET_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CRED|AUTH|SIGN", re.IGNORECASE)
_HUB_NAME = re.compile(r"HF_|HUGGING_FACE_")
"""Variables of the library that downloads checkpoints, one of which is an access token."""
PROXY_ROLES = (Role.INFER, Role.EMIT)
"""Children that keep these variables: inference for the download of a checkpoint, emit to say that it ignores them."""


def part_of(config: Config, role: Role, target: str | None) -> dict[str, Any]:
    """Return plain data for `from_checked(data, is_part=True)`. `target`: as of `Child.target`."""
    raw, name = config.raw, target or ""
    match role:
        case Role.CAPTURE:
            return {**_keys(raw, "agent", "timezone"), "streams": {name: raw["streams"][name]}}
        case Role.INFER:
            return _about_streams(config, config.streams, "model", "rules", "snapshots")
        case Role.EMIT:
            return _about_streams(config, config.streams, "sinks", "ledger", "rules", "modes", "notify", "snapshots")
        case Role.RULES:
            part = _about_streams(config, config.streams, "rules", "modes", "snapshots")
            return {**part, "notify": _targets(config)}
        case Role.SERVE:
            return _about_streams(config, config.streams, "serve")
        case Role.WEB:
            outputs = [data for data, output in _outputs(config) if output.SERVED]
            part = _about_streams(config, config.streams, "web", "rules", "modes", "cluster")
            return {**part, "outputs": outputs, "notify": _targets(config)}
        case Role.VIEW:
            view = ViewId.parse(name)
            outputs = [_without_url(data, output) for data, output in _outputs(config) if output.view == view]
            return {**_about_streams(config, [view.stream]), "outputs": outputs}
        case Role.PUSH:
            ((data, output),) = [(data, output) for data, output in _outputs(config) if output.label == name]
            return {**_about_streams(config, [output.stream]), "outputs": [data]}


def secrets_in(part: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the remembered texts that occur in a part of the config: its process must redact them."""
    text = "\n".join(_texts(part))
    return tuple(secret for secret in remembered() if secret in text)


def environment(role: Role) -> dict[str, str]:
    """Return this process's environment for a child, without the variables that hold a secret by name or by value.

    The config's values of `${NAME}` are in the assignment. Inference keeps the variables of the hub. A proxy is for the
    model's download, not for cameras, which libraries would reach through it.
    """
    secrets = set(remembered())
    kept = {}
    for name, value in os.environ.items():
        if name.lower() in proxies.VARIABLES:
            is_kept = role in PROXY_ROLES
        elif _HUB_NAME.match(name):
            is_kept = role is Role.INFER
        else:
            is_secret = value in secrets or ("@" in value and redact(value) != value)
            is_kept = not (is_secret or _SECRET_NAME.search(name))
        if is_kept:
            kept[name] = value
    return kept


def extra_environment(role: Role) -> dict[str, str]:
    """Return the variables that this role has beside those of every child, which are those of capture."""
    common = environment(Role.CAPTURE)
    return {name: value for name, value in environment(role).items() if name not in common}


def _targets(config: Config) -> dict[str, Any]:
    """Return the targets of notifications without their secrets."""
    return {name: target.without_secrets(config.raw["notify"][name]) for name, target in config.notify.items()}


def _about_streams(config: Config, streams: Iterable[str], *keys: str) -> dict[str, Any]:
    """Return these streams with kind and pace in place of their sources, and these keys of the config."""
    part = _keys(config.raw, "agent", "timezone", *keys)
    part["streams"] = {name: {**config.raw["streams"][name], "source": _summary(config, name)} for name in streams}
    return part


def _summary(config: Config, stream: str) -> dict[str, str]:
    source: Any = config.streams[stream].source
    return {"kind": source.kind, "pace": source.pace}


def _outputs(config: Config) -> Iterator[tuple[dict[str, Any], OutputSettings]]:
    """Yield plain data and settings of each output."""
    return zip(config.raw.get("outputs", ()), config.outputs, strict=True)


def _without_url(data: dict[str, Any], output: OutputSettings) -> dict[str, Any]:
    return {**data, "url": ELSEWHERE} if isinstance(output, RtspPush) else data


def _keys(raw: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: raw[key] for key in keys if key in raw}


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
