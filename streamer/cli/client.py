"""Send a request to a running agent and wait for its answer; used by `ask`, `task` and `top`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamer.core.errors import ConfigError, NoReply
from streamer.core.paths import find_running

if TYPE_CHECKING:
    from streamer.bus.commands import Command

REPLY_TIMEOUT_S = 5.0
"""Time for the parent process to answer. It answers from memory, so more means that it is stuck."""


def call(agent: str | None, reply_timeout: float, command: Command) -> dict[str, Any]:
    """Return a running agent's answer. Raises ConfigError for no agent, no answer in time, or a refused request."""
    from streamer.bus.rpc import control_socket, request

    name, runtime = find_running(agent)
    try:
        answer = request(control_socket(runtime), command.message(), reply_timeout)
    except NoReply:
        raise ConfigError(f"agent {name} does not answer within {reply_timeout:g} s: see its log") from None
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer
