"""Hosts of a cluster in network namespaces of this computer, joined by a bridge, each with Ray and state of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamer.bus.host_keys import HostKeys
from tests.chaos.bench import Skipped
from tests.chaos.namespaces import run
from tests.support import faulty
from tests.support.agents import Event, until

HEAD = "head"
"""Name of the host with Ray's head, which runs no streams."""
RAY_PORT, REDIS_PORT, OBJECT_STORE = 6399, 6390, 80_000_000
ATTEMPTS = 3
"""Starts of Ray before it counts as failed."""
_BIN = Path(sys.executable).parent


class Site:
    """The hosts `head`, `boxa`, `boxb` …; a context manager. Raises Skipped where namespaces are not permitted."""

    def __init__(
        self,
        folder: Path,
        boxes: Sequence[str],
        streams: Mapping[str, Any],
        cluster: Mapping[str, Any],
        has_redis: bool = False,
    ) -> None:
        """`has_redis`: Ray's head keeps its state in a Redis on its host."""
        for program, package in {"ip": "iproute2", **({"redis-server": "redis-server"} if has_redis else {})}.items():
            if not shutil.which(program):
                raise Skipped(f"needs {program} (Debian package {package})")
        self._has_redis = has_redis
        self.boxes = tuple(boxes)
        self.addresses = {name: f"10.233.0.{number}" for number, name in enumerate((HEAD, *boxes), 1)}
        self._folder, self._number, self._token = folder, os.getpid(), secrets.token_hex(32)
        self._installed = faulty.install(folder / "installed")
        hosts = {name: {"address": self.addresses[name]} for name in boxes}
        hosts[HEAD] = {"address": self.addresses[HEAD], "runs_streams": False}  # type: ignore[dict-item]
        sinks = [{"kind": "jsonl", "path": "${EVENTS}"}]
        self.config = folder / "shop.yaml"
        content = {"agent": "shop", "sinks": sinks, "cluster": {"hosts": hosts, **cluster}, "streams": streams}
        self.config.write_text(json.dumps(content))

    def __enter__(self) -> Self:
        try:
            run("ip", "link", "add", self._bridge, "type", "bridge")
            run("ip", "link", "set", self._bridge, "up")
            for name, address in self.addresses.items():
                space, device = self._space(name), self._device(name)
                run("ip", "netns", "add", space)
                run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", space)
                run("ip", "link", "set", device, "master", self._bridge, "up")
                run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")
                for link in ("lo", "eth0"):
                    run("ip", "-n", space, "link", "set", link, "up")
        except subprocess.CalledProcessError as error:
            self.__exit__(None, None, None)
            raise Skipped(f"network namespaces are not permitted: {error.stderr.decode().strip()}") from None
        self._exchange_keys()
        if self._has_redis:
            only_memory = ["--save", "", "--daemonize", "yes"]
            done = self._run(HEAD, ["redis-server", "--bind", "127.0.0.1", "--port", str(REDIS_PORT), *only_memory], 60)
            assert done.returncode == 0, done.stdout
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in self.addresses:
            self.kill(name)
            # The kernel removes a namespace later; a next site needs the device's name now.
            for words in (["link", "delete", self._device(name)], ["netns", "delete", self._space(name)]):
                subprocess.run(["ip", *words], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._bridge], check=False, capture_output=True)

    def start_ray(self, name: str) -> None:
        """Start Ray on a host. Raises AssertionError with its output if it fails.

        On a slow computer Ray fails when its processes need more than 30 s, then it is started again as by a service.
        """
        head = f"{self.addresses[HEAD]}:{RAY_PORT}"
        temporary = f"--temp-dir={self._folder / 'ray'}"
        own = ["--head", f"--port={RAY_PORT}", "--include-dashboard=false", temporary, "--num-cpus=0"]
        role = own if name == HEAD else [f"--address={head}", "--num-cpus=1"]
        here = [f"--node-name={name}", f"--node-ip-address={self.addresses[name]}"]
        size = [f"--object-store-memory={OBJECT_STORE}", "--disable-usage-stats"]
        for _ in range(ATTEMPTS):
            if name == HEAD:  # Ray takes the processes of the other hosts, which it sees here, for those of this one
                (self._folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
            done = self._run(name, [str(_BIN / "ray"), "start", *role, *here, *size], 300)
            if done.returncode == 0:
                return
            self.kill(name, "ray")
        raise AssertionError(done.stdout)

    def command(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `streamer cluster` on the host with the head."""
        address = ["--address", f"{self.addresses[HEAD]}:{RAY_PORT}"]
        return self._run(HEAD, [str(_BIN / "streamer"), "cluster", *words, *address], timeout)

    def kill(self, name: str, only: str = "") -> None:
        """Kill all processes of a host, or those with this word in their command line."""
        for number in self._processes(name):
            try:
                if only.encode() in Path(f"/proc/{number}/cmdline").read_bytes():
                    os.kill(number, signal.SIGKILL)
            except OSError:
                pass  # it has ended

    def wait_for_end(self, name: str) -> None:
        until(lambda: not self._processes(name), 20, f"the end of the processes of {name}")

    def set_link(self, name: str, up: bool) -> None:
        """Cut a host off from all others, or connect it again."""
        run("ip", "-n", self._space(name), "link", "set", "eth0", "up" if up else "down")

    def state(self, name: str) -> Path:
        """Return the state folder of a host's agent."""
        return self._folder / name / "state" / "streamer" / f"shop-{name}"

    def log(self, name: str) -> str:
        """Return the end of the log of a host's processes."""
        file = self.state(name) / "cluster" / "host.log"
        return file.read_text(errors="replace")[-3000:] if file.exists() else ""

    def events(self, name: str) -> list[Event]:
        """Return the events that a host has delivered, in order."""
        file = self._folder / name / "events.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    def results(self, name: str) -> list[Event]:
        return [event for event in self.events(name) if event["type"] == "streamer.result.v1"]

    @property
    def _bridge(self) -> str:
        return f"sb{self._number}"

    def _device(self, name: str) -> str:
        return f"s{self._number}{name}"[:15]

    def _space(self, name: str) -> str:
        return f"streamer-{name}-{self._number}"

    def _processes(self, name: str) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self._space(name)], check=False, capture_output=True, text=True)
        return [int(number) for number in done.stdout.split()]

    def _run(self, name: str, words: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        folder = self._folder / name
        runtime = folder / "run"
        runtime.mkdir(parents=True, exist_ok=True)
        own = {"XDG_STATE_HOME": str(folder / "state"), "XDG_RUNTIME_DIR": str(runtime)}
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token, "RAY_USAGE_STATS_ENABLED": "0"}
        if self._has_redis and name == HEAD:
            ray["RAY_REDIS_ADDRESS"] = f"127.0.0.1:{REDIS_PORT}"
        events = {"EVENTS": str(folder / "events.jsonl")}
        # To a file: a pipe would stay open in the processes that Ray leaves behind.
        with (folder / "commands.log").open("a+") as output:
            begin = output.tell()
            done = subprocess.run(
                ["ip", "netns", "exec", self._space(name), *words],
                env={**os.environ, **self._installed, **own, **ray, **events},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout, check=False,
            )  # fmt: skip
            output.seek(begin)
            return subprocess.CompletedProcess(words, done.returncode, output.read(), "")

    def _exchange_keys(self) -> None:
        keys = {name: HostKeys(self._folder / name / "state" / "streamer" / "host.keys") for name in self.addresses}
        public = {name: own.create().public.hex() for name, own in keys.items()}
        for name, own in keys.items():
            for other in public.keys() - {name}:
                own.allow(other, public[other])
