"""Real servers of other projects as processes that are killed and frozen: NATS, Redis, and Kafka's mock cluster."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import nats
import redis
from confluent_kafka import Consumer, TopicPartition
from nats.aio.client import Client

from tests.support.agents import until
from tests.support.certificates import Certificate
from tests.support.ports import free_port

Events = list[dict[str, Any]]
ANSWER_S = 60.0
"""Longest time until a server answers, on a machine with much other work."""


class ServerProcess:
    """A context manager. What the server stored survives `kill`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command line of the server."""

    @abstractmethod
    def events(self) -> Events:
        """Return the stored events in order."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._accepts_connections, 10, "the server accepts connections")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def freeze(self, frozen: bool) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def _accepts_connections(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0


class NatsServer(ServerProcess):
    """A NATS server with JetStream; `options` are lines of its configuration."""

    def __init__(
        self, folder: Path, *options: str, login: tuple[str, str] | None = None, tls: Certificate | None = None
    ) -> None:
        """`login`: user and password of the tests."""
        super().__init__(folder)
        self._login = {} if login is None else {"user": login[0], "password": login[1]}
        lines = [
            f"listen: 127.0.0.1:{self.port}", f'jetstream {{ store_dir: "{folder}/jetstream" }}', *options,
        ]  # fmt: skip
        if tls is not None:
            lines.append(f'tls {{ cert_file: "{tls.cert}", key_file: "{tls.key}" }}')
        (folder / "nats.conf").write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [shutil.which("nats-server") or "/usr/sbin/nats-server", "-c", str(self.folder / "nats.conf")]

    def add_stream(self, name: str = "EVENTS", **config: Any) -> None:
        async def add() -> None:
            client = await self._connect()
            await client.jetstream(timeout=ANSWER_S).add_stream(name=name, subjects=["streamer.>"], **config)
            await client.close()

        asyncio.run(add())

    async def _connect(self) -> Client:
        return await nats.connect(self.url, connect_timeout=int(ANSWER_S), max_reconnect_attempts=1, **self._login)

    def messages(self) -> list[tuple[str, dict[str, str], bytes]]:
        """Return subject, headers and body of each stored message of the only stream; none without a stream."""

        async def read() -> list[tuple[str, dict[str, str], bytes]]:
            client = await self._connect()
            manager = client.jetstream(timeout=ANSWER_S)
            found = []
            for stream in await manager.streams_info():
                subscription = await manager.subscribe("streamer.>", stream=stream.config.name, ordered_consumer=True)
                for _ in range(stream.state.messages):
                    message = await subscription.next_msg(ANSWER_S)
                    found.append((message.subject, dict(message.headers or {}), message.data))
            await client.close()
            return found

        return asyncio.run(read())

    def streams(self) -> list[Any]:
        async def read() -> list[Any]:
            client = await self._connect()
            found = await client.jetstream(timeout=ANSWER_S).streams_info()
            await client.close()
            return list(found)

        return asyncio.run(read())

    def count(self, subject: str = "streamer.home.streams.gate.people") -> int:
        """Return the number of messages with a subject in the only stream; 0 without a stream."""

        async def read() -> int:
            client = await self._connect()
            manager = client.jetstream(timeout=ANSWER_S)
            found = 0
            for stream in await manager.streams_info():
                info = await manager.stream_info(stream.config.name or "", subjects_filter=subject)
                found += (info.state.subjects or {}).get(subject, 0)
            await client.close()
            return found

        return asyncio.run(read())

    def events(self) -> Events:
        return [json.loads(body) for _, _, body in self.messages()]


class RedisServer(ServerProcess):
    """A Redis server with an append-only file; `options` are words of its command line."""

    def __init__(
        self, folder: Path, *options: str, password: str | None = None, tls: Certificate | None = None
    ) -> None:
        super().__init__(folder)
        self.socket = folder / "redis.sock"
        self._password = password
        self._options = [*options, "--dir", str(folder), "--unixsocket", str(self.socket), "--appendonly", "yes"]
        self._options += ["--requirepass", password] if password is not None else []
        if tls is None:
            self._options += ["--port", str(self.port)]
        else:
            self._options += ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(tls.cert)]
            self._options += [
                "--tls-key-file",
                str(tls.key),
                "--tls-auth-clients",
                "no",
                "--tls-ca-cert-file",
                str(tls.cert),
            ]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return ["redis-server", "--save", "", *self._options]

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), password=self._password)

    def entries(self, stream: str = "streamer") -> list[dict[bytes, bytes]]:
        with self.client() as client:
            found: Any = client.xrange(stream)
        return [fields for _, fields in found]

    def events(self) -> Events:
        return [json.loads(fields[b"event"]) for fields in self.entries()]


class KafkaCluster(ServerProcess):
    """The mock cluster of librdkafka in a process of its own. It stores in memory, so `kill` loses its messages."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._next: dict[int, int] = {}
        self._read: list[tuple[int, bytes, dict[str, bytes], bytes]] = []

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kafka_mock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.bootstrap = self._process.stdout.readline().decode().strip()

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def call(self, function: str, *arguments: int | str) -> None:
        """Call a function of the mock, such as `broker_set_down`, in the other process."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, *arguments]).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"0\n"

    def messages(self, topic: str = "streamer") -> list[tuple[int, bytes, dict[str, bytes], bytes]]:
        """Return partition, key, headers and body of all messages of the one topic of a test.

        The mock keeps the last 5 MB of a partition, so what was read earlier is kept here.
        """
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test"})
        try:
            partitions = consumer.list_topics(topic, ANSWER_S).topics[topic].partitions
            ends = {one: consumer.get_watermark_offsets(TopicPartition(topic, one), ANSWER_S)[1] for one in partitions}
            consumer.assign([TopicPartition(topic, one, self._next.get(one, 0)) for one in partitions])
            while any(self._next.get(one, 0) < end for one, end in ends.items()):
                message = consumer.poll(ANSWER_S)
                assert message is not None
                assert message.error() is None
                partition, offset = message.partition() or 0, message.offset() or 0
                assert offset == self._next.get(partition, 0), "the mock has dropped messages that nobody has read"
                self._next[partition] = offset + 1
                headers = {str(name): bytes(value) for name, value in message.headers() or []}  # type: ignore[arg-type, str-unpack]
                self._read.append((partition, message.key() or b"", headers, message.value() or b""))
            return list(self._read)
        finally:
            consumer.close()

    def events(self) -> Events:
        return [json.loads(body) for _, _, _, body in self.messages()]
