"""The NATS sink, with a real server that is killed, frozen, full, and requires a user or TLS."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import nkeys
import pytest
from nats.js.api import DiscardPolicy
from pydantic import TypeAdapter, ValidationError

from streamer.bus.event_channel import EventClient
from streamer.core.errors import ConfigError, SinkError
from streamer.core.redact import Url
from streamer.events.sinks import Nats, SinkField
from streamer.events.sinks._nats_subjects import event_subject
from tests.support.agents import until
from tests.support.certificates import Authority
from tests.support.emit_process import EmitProcess, send_events
from tests.support.server_process import NatsServer
from tests.support.sinks import RecordedProgress, entries, padded, sink_context
from tests.support.tcp_server import TcpServer

IN_FLIGHT = 20


def opened(url: str, progress: RecordedProgress, **keys: Any) -> Any:
    return Nats(url=Url(url), **keys).open(sink_context(), progress)


def test_killed_and_frozen_server_loses_nothing(tmp_path: Path, client: EventClient) -> None:
    sink = {"kind": "nats", "stream": "EVENTS", "create": True, "timeout": "3s"}
    with NatsServer(tmp_path) as server, EmitProcess(tmp_path, [{**sink, "url": server.url}]) as emit:
        send_events(client, range(150))
        until(lambda: server.count() > 20, 20, f"some arrive: {emit.log()}")
        server.kill()
        send_events(client, range(150, 250))
        emit.kill()
        emit.start()
        server.start()
        send_events(client, range(250, 300))
        until(lambda: server.count() > 200, 20, f"more arrive: {emit.log()}")
        server.freeze(True)
        send_events(client, range(300, 400))
        until(lambda: "within" in emit.log(), 10, "it is reported")
        server.freeze(False)
        until(lambda: server.count() >= 400, 30, f"all arrive: {emit.log()}")
        assert emit.stop() == 0
        found = [one for one in server.events() if one["type"] == "streamer.result.v1"]

    times = Counter(one["id"] for one in found)
    assert sum(count - 1 for count in times.values()) == 0  # within the duplicate window
    assert [one["data"]["frame"]["seq"] for one in found] == list(range(400))


def test_message_is_a_structured_cloudevent(tmp_path: Path, progress: RecordedProgress) -> None:
    with NatsServer(tmp_path) as server:
        server.add_stream()
        sink = opened(server.url, progress)
        sink.write(entries(1, 3))
        sink.idle()
        sink.write(entries(1, 3))  # as after a failure
        sink.close()
        stored = server.messages()

    assert progress.advanced[-1] == 3
    assert len(stored) == 3
    subject, headers, body = stored[0]
    assert subject == "streamer.home.streams.gate.people"
    assert headers["Nats-Msg-Id"] == json.loads(body)["id"]
    assert headers["content-type"] == "application/cloudevents+json"
    assert body == entries(1, 1)[0][1]


def test_position_advances_only_with_acknowledgements(tmp_path: Path, progress: RecordedProgress) -> None:
    with NatsServer(tmp_path) as server:
        server.add_stream()
        sink = opened(server.url, progress, timeout="3s")
        sink.write(entries(1, 100))
        assert progress.advanced[-1] == 100
        assert progress.advanced == sorted(progress.advanced)
        server.freeze(True)
        with pytest.raises(SinkError, match=r"no acknowledgement within 3 s"):
            sink.write(entries(101, 150))
        assert progress.advanced[-1] == 100
        server.freeze(False)
        sink.write(entries(101, 150))
        assert progress.advanced[-1] == 150
        sink.close()


def test_missing_stream_is_reported_and_not_created(tmp_path: Path, progress: RecordedProgress) -> None:
    with NatsServer(tmp_path) as server:
        sink = opened(server.url, progress)
        with pytest.raises(SinkError, match="no JetStream stream has the subject: create one, or set `stream`"):
            sink.write(entries(1, 3))
        sink.close()
        assert not server.streams()
        other = opened(server.url, progress, stream="EVENTS", create=True)
        other.write(entries(1, 3))
        other.close()
        (stream,) = server.streams()
        wrong = opened(server.url, progress, stream="OTHER")
        with pytest.raises(SinkError, match="another stream than `stream` has the subject"):
            wrong.write(entries(4, 4))
        wrong.close()

    assert (stream.config.name, stream.config.subjects, stream.state.messages) == ("EVENTS", ["streamer.>"], 3)
    assert progress.advanced[-1] == 3


def test_too_large_events_become_dead_letters(tmp_path: Path, progress: RecordedProgress) -> None:
    with NatsServer(tmp_path, "max_payload: 8000") as server:
        server.add_stream(max_msg_size=4000)
        sink = opened(server.url, progress)
        sink.write([*entries(1, 2), (3, padded(9000)), (4, padded(5000)), *entries(5, 6)])
        sink.close()
        stored = len(server.events())

    assert progress.refused == {
        3: "larger than 8000 bytes, the limit of the server",
        4: "larger than the stream accepts",
    }
    assert (stored, progress.advanced[-1]) == (4, 6)


def test_full_stream_keeps_the_events(tmp_path: Path, progress: RecordedProgress) -> None:
    with NatsServer(tmp_path) as server:
        server.add_stream(max_msgs=5, discard=DiscardPolicy.NEW)
        sink = opened(server.url, progress)
        with pytest.raises(SinkError, match="the stream cannot store it: it is full"):
            sink.write(entries(1, 10))
        sink.close()

    assert progress.advanced[-1] == 5
    assert not progress.refused


def test_passwords_tokens_and_nkeys(tmp_path: Path, progress: RecordedProgress) -> None:
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "user.nk").write_bytes(seed)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    users = f'authorization {{ users: [{{user: cam, password: "s3cret@word"}}, {{nkey: {public}}}] }}'
    with NatsServer(tmp_path, users, login=("cam", "s3cret@word")) as server:
        server.add_stream()
        url = f"nats://cam:s3cret%40word@127.0.0.1:{server.port}"
        for sink in (
            opened(url, progress),
            opened(server.url, progress, credentials=tmp_path / "user.nk"),
        ):
            sink.write(entries(1, 3))
            sink.close()
        for wrong in (url.replace("s3cret", "another"), server.url):
            sink = opened(wrong, progress)
            with pytest.raises(SinkError, match="it refuses the user") as caught:
                sink.write(entries(4, 4))
            assert "another" not in str(caught.value)
            sink.close()
    assert progress.advanced[-1] == 3


def test_tls_is_verified_and_never_left_out(tmp_path: Path, progress: RecordedProgress) -> None:
    authority = Authority(tmp_path)
    with NatsServer(tmp_path, tls=authority.issue("server")) as server:
        url = f"tls://127.0.0.1:{server.port}"
        sink = opened(url, progress, ca=authority.cert, stream="EVENTS", create=True)
        sink.write(entries(1, 3))
        sink.close()
        assert progress.advanced[-1] == 3
        strangers: tuple[tuple[str, dict[str, Any], str], ...] = (
            (url, {}, r"TLS: .* not from a known authority: .*`ca: FILE`"),
            (url.replace("tls", "nats"), {}, "requires TLS: use tls://"),
        )
        for wrong, keys, message in strangers:
            stranger = opened(wrong, progress, **keys)
            with pytest.raises(SinkError, match=message):
                stranger.write(entries(4, 4))
            stranger.close()
    with Plain() as plain:
        sink = opened(f"tls://cam:s3cret@{plain.address}", progress)
        with pytest.raises(SinkError, match="the server does not use TLS: use nats://"):
            sink.write(entries(4, 4))
        sink.close()
        assert b"s3cret" not in plain.received


class Plain(TcpServer):
    """A server that says that it needs no TLS."""

    received = b""

    def serve(self, client: socket.socket) -> None:
        client.sendall(b'INFO {"max_payload": 1000000}\r\n')
        while data := client.recv(65536):
            self.received += data


def test_subjects_have_no_wildcards_and_are_unique() -> None:
    assert event_subject("a.b", "/agents/home", "sink.down") == "a.b.home.sink.down"
    assert event_subject("s", "/agents/home/outputs/mp4:gate a*", "x.>") == "s.home.outputs.mp4=3Agate=20a=2A.x.=3E"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "nats://h/path"}, "the key `subject`"),
        ({"url": "mqtt://h"}, "must begin with nats:// or tls://"),
        ({"url": "nats://h", "ca": "ca.pem"}, "only allowed with tls://"),
        ({"url": "nats://h", "create": True}, "give `stream` too"),
        ({"url": "nats://a:b@h", "credentials": "x"}, "not both"),
        ({"url": "nats://h", "subject": "a.*"}, "pattern"),
    ],
)
def test_invalid_settings_are_rejected(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SinkField).validate_python({"kind": "nats", **keys})


@pytest.mark.parametrize(("text", "message"), [("x", "holds neither JWT and seed"), (None, "cannot read `cred")])
def test_unusable_credentials_are_a_config_error(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "file").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Nats(url=Url("nats://h"), credentials=tmp_path / "file").check()
