"""The Ray actor on a host: passes the commands of the controller to the host process, and starts it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamer.bus.rpc import request
from streamer.cluster.agent import AgentProcess
from streamer.cluster.host import SOCKET, host_folder, is_running
from streamer.config.cluster import agent_name
from streamer.core.errors import ConfigError, NoReply

HOST_S = 2.0
"""Longest wait for the host process, which answers from memory."""
START_S = 30.0
"""Time for a new host process to answer before it is started again."""
DETACH = "import os, sys; os.fork() and os._exit(0); os.execv(sys.argv[1], sys.argv[1:])"
"""Program that starts another one as no child of its caller, which may end with all of its children."""


class Proxy:
    """The actor on a host. `call` is bounded in time."""

    def __init__(self, agent: str, host: str, config: str) -> None:
        self._host, self._config = host, config
        self._agent = agent_name(agent, host)
        self._folder = host_folder(self._agent)
        self._start_at = 0.0
        """Monotonic second from which another host process may be started. In the future, one starts now."""

    def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of the host process; `failed` if there is none."""
        if message["op"] == "stop":
            return self._stop()
        try:
            answer = self._request(message)
        except (NoReply, ConfigError) as error:
            if message["op"] == "report" and time.monotonic() >= self._start_at and not is_running(self._folder):
                self._start()
            return {"failed": str(error)}
        return answer

    def _request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        answer = request(self._folder / SOCKET, dict(message), HOST_S)
        self._start_at = 0.0
        return answer

    def _stop(self) -> dict[str, Any]:
        """Return `done` when neither the host process nor its agent runs, `failed` before."""
        with contextlib.suppress(NoReply, ConfigError):
            self._request({"op": "stop"})
        if is_running(self._folder) or time.monotonic() < self._start_at:
            return {"failed": "its host process runs"}
        with AgentProcess(self._agent, []) as agent:  # one that has outlived its host process
            agent.stop()
        return {"done": True}

    def _start(self) -> None:
        """Start the host process so that it outlives Ray: with the environment of `ray start`, and as no child."""
        self._start_at = time.monotonic() + START_S
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [sys.executable, "-m", "streamer.cli", "cluster", "host", self._config, "--name", self._host]
        with (self._folder / "host.log").open("ab") as output:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", DETACH, *command],
                env=_environment_of_ray(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, check=False,
            )  # fmt: skip


def _environment_of_ray() -> dict[str, str]:
    """Return the environment of the raylet: that of a worker hides the GPUs and allows one thread."""
    try:
        entries = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        entries = []
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
    found = {name: value for name, _, value in pairs if not name.startswith("RAY_")}
    return found or dict(os.environ)
