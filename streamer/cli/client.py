"""`streamer ask` and `streamer task`: one order to a running agent, and its answer in words."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from streamer.bus.rpc import Message, RpcClient, control_socket
from streamer.core.errors import ConfigError
from streamer.core.paths import find_running

LOOK_S = 5.0
"""How long the parent may take to answer; it never works for long."""
PHRASE_TASK = "open_vocabulary_detection"
"""What a text alone asks."""


def ask(agent: str | None, stream: str, task: dict[str, Any], seconds: float, as_json: bool) -> int:
    """Ask once and print the answer; the exit code. Raises ConfigError for what the agent refuses."""
    answer = call(agent, seconds + LOOK_S, op="ask", stream=stream, task=task, timeout=seconds)
    if "failed" in answer:
        print(f"streamer: no answer about {stream}: {answer['failed']}", file=sys.stderr)
        return 1
    event = answer["event"]
    if as_json:
        print(json.dumps(event))
    else:
        for line in words(event):
            print(line)
    if event["data"]["result"] is None:
        print(f"streamer: {event['data']['outcome']}: {event['data'].get('error', 'no answer')}", file=sys.stderr)
        return 1
    return 0


def change(agent: str | None, what: str, stream: str, name: str, task: dict[str, Any] | None, save: bool) -> None:
    """Change a task of a running agent and say so. Raises ConfigError for what the agent refuses."""
    print(call(agent, LOOK_S, op=what, stream=stream, name=name, task=task, save=save)["done"])


def words(event: Message) -> Iterator[str]:
    """What a result says, a line for each thing."""
    result = event["data"]["result"]
    if result is None:
        return
    if result["text"]:
        yield result["text"]
    for shape in (*result["boxes"], *result["polygons"], *result["quads"]):
        score = "" if shape["score"] is None else f"{shape['score']:.2f}  "
        places = shape["box"] if "box" in shape else [edge for point in shape["points"] for edge in point]
        yield f"{shape['label']}  {score}{' '.join(f'{place:.2f}' for place in places)}"
    if event["data"]["outcome"] == "empty":
        yield "nothing"


def call(agent: str | None, seconds: float, **message: Any) -> Message:
    """The answer of a running agent. Raises ConfigError when there is none, or it is a refusal."""
    name, runtime = find_running(agent)
    caller = RpcClient(control_socket(runtime))
    try:
        number, until = caller.send(**message), time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            caller.socket.poll(round(left * 1000) + 1)
            for answer in caller.receive():
                if answer["id"] == number:
                    return _checked(answer)
    finally:
        caller.close()
    raise ConfigError(f"agent {name} does not answer")


def _checked(answer: Message) -> Message:
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer
