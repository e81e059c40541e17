"""The Redis sink, with a real server that is killed, frozen, full, a replica, and requires a password or TLS."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from streamer.bus.event_channel import EventClient
from streamer.core.errors import ConfigError, SinkError
from streamer.core.redact import Url
from streamer.events.sinks import Redis, SinkField
from tests.support.agents import until
from tests.support.certificates import Authority
from tests.support.emit_process import EmitProcess, send_events
from tests.support.ports import free_port
from tests.support.server_process import RedisServer
from tests.support.sinks import RecordedProgress, entries, sink_context

IN_FLIGHT = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def opened(url: str, progress: RecordedProgress, **keys: Any) -> Any:
    return Redis(url=Url(url), **keys).open(sink_context(), progress)


@pytest.mark.parametrize("skip_repeated", [False, True])
def test_killed_and_frozen_server_loses_nothing(tmp_path: Path, client: EventClient, skip_repeated: bool) -> None:
    sink = {"kind": "redis", "timeout": "3s", "skip_repeated": skip_repeated}
    with RedisServer(tmp_path) as server, EmitProcess(tmp_path, [{**sink, "url": server.url}]) as emit:
        send_events(client, range(150))
        until(lambda: len(server.entries()) > 20, 20, f"some arrive: {emit.log()}")
        server.kill()
        send_events(client, range(150, 250))
        emit.kill()
        emit.start()
        server.start()
        send_events(client, range(250, 300))
        until(lambda: len(server.entries()) > 200, 20, f"more arrive: {emit.log()}")
        server.freeze(True)
        send_events(client, range(300, 400))
        until(lambda: "within" in emit.log(), 10, "it is reported")
        server.freeze(False)
        until(lambda: len({one["id"] for one in server.events()}) >= 400, 30, f"all arrive: {emit.log()}")
        assert emit.stop() == 0
        found = [one for one in server.events() if one["type"] == "streamer.result.v1"]

    times = Counter(one["id"] for one in found)
    breaks = 3
    assert sum(count - 1 for count in times.values()) <= (0 if skip_repeated else breaks * IN_FLIGHT)
    first_seen = list(dict.fromkeys(one["data"]["frame"]["seq"] for one in found))
    assert first_seen == list(range(400))


def test_entry_names_id_and_source(server: RedisServer, progress: RecordedProgress) -> None:
    sink = opened(server.url, progress)
    sink.idle()
    sink.write(entries(1, 50))
    sink.close()

    first, body = server.entries()[0], entries(1, 1)[0][1]
    assert first == {b"id": json.loads(body)["id"].encode(), b"source": b"/agents/home/streams/gate", b"event": body}
    assert (len(server.entries()), progress.advanced[-1]) == (50, 50)


def test_stream_is_limited_and_repeated_events_are_left_out(server: RedisServer, progress: RecordedProgress) -> None:
    for skip_repeated, expected in ((False, 2), (True, 1)):
        for _ in range(2):  # as after a lost answer
            sink = opened(server.url, progress, stream=f"s{expected}", skip_repeated=skip_repeated)
            sink.write(entries(1, 3))
            sink.close()
        assert Counter(one[b"id"] for one in server.entries(f"s{expected}")).most_common()[0][1] == expected
        sink = opened(
            server.url, progress, stream=f"long{expected}", skip_repeated=skip_repeated, max_entries=100, in_flight=500
        )
        sink.write(entries(1, 400))
        sink.close()
        assert len(server.entries(f"long{expected}")) < 300


def test_frozen_server_does_not_hold_the_sink(server: RedisServer, progress: RecordedProgress) -> None:
    sink = opened(server.url, progress, timeout="3s")
    sink.write(entries(1, 3))
    server.freeze(True)
    with pytest.raises(SinkError, match=r"no answer within 3 s"):
        sink.write(entries(4, 8))
    server.freeze(False)
    assert progress.advanced[-1] == 3
    sink.write(entries(4, 8))
    sink.close()
    assert progress.advanced[-1] == 8


def test_refusals_of_the_server_keep_the_events(server: RedisServer, progress: RecordedProgress) -> None:
    sink = opened(server.url, progress)
    with server.client() as client:
        client.set("streamer", "text")
        with pytest.raises(SinkError, match="the key of the stream holds something else: change `stream`"):
            sink.write(entries(1, 3))
        client.delete("streamer")
        client.config_set("maxmemory", "1")
        with pytest.raises(SinkError, match="its memory is full"):
            sink.write(entries(1, 3))
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", free_port())
        with pytest.raises(SinkError, match="it is a replica, which takes no events"):
            sink.write(entries(1, 3))
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert not progress.advanced
    assert not server.entries()
    sink.write(entries(1, 3))
    sink.close()
    assert progress.advanced[-1] == 3


def test_passwords_databases_sockets_and_tls(tmp_path: Path, progress: RecordedProgress) -> None:
    authority = Authority(tmp_path)
    with RedisServer(tmp_path, password="s3cret@word", tls=authority.issue("server")) as server:
        url = f"rediss://:s3cret%40word@127.0.0.1:{server.port}"
        for sink in (
            opened(url, progress, ca=authority.cert),
            opened("redis://:s3cret%40word@localhost", progress, socket=server.socket),
        ):
            sink.write(entries(1, 3))
            sink.close()
        assert len(server.entries()) == 6
        strangers: tuple[tuple[str, dict[str, Any], str], ...] = (
            (url.replace("s3cret", "another"), {"ca": authority.cert}, "it refuses the user"),
            (f"rediss://127.0.0.1:{server.port}", {"ca": authority.cert}, "it refuses the user, or needs one"),
            (url, {}, r"TLS: .* not from a known authority: .*`ca: FILE`"),
            (f"{url}/99", {"ca": authority.cert}, "it has no database of this number"),
        )
        for wrong, keys, message in strangers:
            sink = opened(wrong, progress, **keys)
            with pytest.raises(SinkError, match=message) as caught:
                sink.write(entries(4, 4))
            assert "another" not in str(caught.value)
            sink.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "redis://h/path"}, "number of a database"),
        ({"url": "redis://h?db=1"}, "number of a database"),
        ({"url": "redis://h", "cert": "c.pem"}, "only allowed with rediss://"),
        ({"url": "rediss://h", "socket": "s"}, "`socket` has no TLS"),
        ({"url": "redis://h", "max_entries": 0}, "greater than or equal to 1"),
    ],
)
def test_invalid_settings_are_rejected(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SinkField).validate_python({"kind": "redis", **keys})


def test_file_in_place_of_the_socket_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is not a socket"):
        Redis(url=Url("redis://h"), socket=tmp_path / "file").check()
