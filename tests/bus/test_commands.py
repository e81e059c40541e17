"""Requests to a running agent: parsing, and the error for malformed ones."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from streamer.bus.commands import CONTROL, INFERENCE, Ask, ChangeTask, ListTasks, SetTasks, parse
from streamer.core.errors import ConfigError


@pytest.mark.parametrize(
    "command",
    [
        ListTasks(),
        Ask(stream="gate", task={"task": "ocr"}, seconds=2.0),
        ChangeTask(op="add", stream="gate", name="ocr", task={"task": "ocr"}, save=True),
        ChangeTask(op="pause", stream="gate", name="x"),
    ],
)
def test_control_command_survives_its_message(command: ListTasks | Ask | ChangeTask) -> None:
    assert parse(CONTROL, {**command.message(), "id": 1}) == command


def test_inference_command_survives_its_message() -> None:
    command = SetTasks(stream="gate", tasks=[{"task": "ocr"}])
    assert parse(INFERENCE, {**command.message(), "id": 1}) == command


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"op": "explode"},
        {"op": ["ask"]},
        {"op": "ask", "stream": "gate", "task": "ocr", "seconds": 1},
        {"op": "ask", "stream": "gate", "task": {}, "seconds": "soon"},
        {"op": "ask", "stream": "g" * 65, "task": {}, "seconds": 1},
        {"op": "ask", "stream": "gate", "task": {}, "seconds": 10**400},
        {"op": "add", "stream": "gate", "name": "x", "task": {"task": "ocr", "name": "y"}},
        {"op": "add", "stream": "gate", "name": "x"},
        {"op": "ask", "stream": "gate", "task": {"task": "ocr", "text": "x" * 20_000}, "seconds": 1},
    ],
)
def test_malformed_request_names_the_remedy(message: dict[str, Any]) -> None:
    adapters: tuple[TypeAdapter[Any], ...] = (CONTROL, INFERENCE)
    for adapter in adapters:
        with pytest.raises(ConfigError, match=r"^malformed request \(.+\): CLI and agent versions may differ$"):
            parse(adapter, message)
