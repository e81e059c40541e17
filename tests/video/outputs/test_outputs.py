"""Outputs: their settings, their files as read by ffprobe and PyAV, and a real RTSP server that records."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pytest
import zmq

from streamer.bus.result_feed import ResultPublisher, ResultSubscriber
from streamer.config.model import from_mapping, load
from streamer.core.errors import ConfigError
from streamer.events.schema import ResultEvent
from streamer.video.encoder import Encoder
from streamer.video.outputs.base import CLOCK_HZ, EncodedFrame, ViewId, outputs_by_view
from streamer.video.outputs.mp4 import Mp4
from streamer.video.outputs.rtsp_push import PacketPublisher, PacketSubscriber, RtspPush, packets_endpoint
from tests.support import faulty
from tests.support.agents import RunningAgent, until
from tests.support.rtsp import RtspReceiver
from tests.support.sample_events import event
from tests.support.viewing import JpegReader, Role, StatusCollector, ffprobe, files, view_config

START_S = 60.0
NOBODY = 65_534


def encode(seconds: float, fps: float = 25) -> Iterator[tuple[Encoder, EncodedFrame]]:
    """Yield the frames of a short real encode of a changing image."""
    encoder = Encoder("libx264", 128, 96, fps)
    for number in range(round(seconds * fps)):
        image = np.full((96, 128, 3), number % 200, np.uint8)
        for one in encoder.encode(image, number / fps):
            yield encoder, one
    encoder.close()


def write(settings: Mp4, seconds: float, close: bool = True) -> Any:
    writer = settings.writer(Path())
    for number, (encoder, one) in enumerate(encode(seconds)):
        if number == 0:
            writer.open(encoder.template)
        writer.write(one)
    if close:
        writer.close()
    return writer


# Settings


def agent(*outputs: dict[str, Any], source: str = "synthetic") -> Any:
    streams = {"gate": {"source": source, "tasks": [{"task": "caption"}]}}
    return from_mapping({"streams": streams, "outputs": list(outputs), "web": {}})


def test_outputs_of_a_stream_share_its_views() -> None:
    kinds: list[dict[str, Any]] = [{"kind": "mjpeg"}, {"kind": "hls"}, {"kind": "hls", "sync": True}]
    made = agent(*({"stream": "gate", **kind} for kind in kinds))
    views = outputs_by_view(made.outputs)
    assert {str(view): [output.label for output in outputs] for view, outputs in views.items()} == {
        "gate": ["gate-mjpeg", "gate-hls"],
        "gate+sync": ["gate-hls-sync"],
    }


@pytest.mark.parametrize("view", [ViewId("gate"), ViewId("gate", sync=True)])
def test_view_id_is_parsed_from_its_name(view: ViewId) -> None:
    assert ViewId.parse(str(view)) == view


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"kind": "mjpeg", "stream": "gaet"}], "outputs[0].stream: there is no stream `gaet` (did you mean `gate`?)"),
        ([{"kind": "mpjeg", "stream": "gate"}], "unknown kind `mpjeg` (did you mean `mjpeg`?)"),
        ([{"kind": "mjpeg"}], "`stream` is missing"),
        ([{"kind": "hls", "stream": "gate"}] * 2, "outputs[1]: a second output with the name `gate-hls`"),
        ([{"kind": "mp4", "stream": "gate", "path": "x", "segment": "soon"}], "must be a duration"),
        ([{"kind": "rtsp_push", "stream": "gate", "url": "http://a/b"}], "must begin with rtsp:// or rtsps://"),
        ([{"kind": "rtsp_push", "stream": "gate", "url": "rtsp://u:pw1234@h:x/b"}], "has a port that is not a number"),
        (
            [{"kind": "hls", "stream": "gate"}, {"kind": "mp4", "stream": "gate", "path": "/", "encoder": "x"}],
            "outputs[1].encoder: the outputs of `gate` share one encode: `libx264` and `x` cannot both be",
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_explained(outputs: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        agent(*outputs)
    assert words in str(error.value)
    assert "pw1234" not in str(error.value)


def test_served_output_without_web_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "home.yaml"
    config.write_text(
        "streams: {gate: {source: synthetic, tasks: [{task: caption}]}}\n"
        "outputs:\n  - {kind: mp4, stream: gate, path: .}\n  - stream: gate\n    kind: hls\n"
    )
    with pytest.raises(ConfigError) as error:
        load(config)
    assert str(error.value) == f"{config}:5: outputs[1].kind: only the page serves hls, and there is none: add `web:`"


def test_output_of_a_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ConfigError, match="is a recording: outputs show live streams only"):
        agent({"kind": "hls", "stream": "gate"}, source=str(tmp_path / "clip.mp4"))


def test_missing_folder_is_refused_before_the_start(tmp_path: Path) -> None:
    config = tmp_path / "home.yaml"
    config.write_text(
        "streams: {gate: {source: synthetic, tasks: [{task: caption}]}}\n"
        f"outputs: [{{kind: mp4, stream: gate, path: {tmp_path}/nowhere}}]\n"
    )
    for command in ("check", "run"):
        with RunningAgent(tmp_path / command, [command, str(config)]) as running:
            assert running.process.wait(30) == 2
            assert f"no such folder: {tmp_path}/nowhere" in running.log()


@pytest.fixture
def not_root() -> Iterator[None]:
    """Run as nobody: root may write everywhere, and `access` checks the real user."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, -1, -1)
    yield
    os.setresuid(0, -1, -1)


@pytest.mark.usefixtures("not_root")
def test_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="no permission to write"):
        Mp4(stream="gate", path=tmp_path).check()


@pytest.mark.parametrize(
    ("encoder", "words"), [("h264_turbo", "has no encoder `h264_turbo`"), ("mjpeg", "`mjpeg` is not an H.264 encoder")]
)
def test_unknown_encoder_is_refused(tmp_path: Path, encoder: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Mp4(stream="gate", path=tmp_path, encoder=encoder).check()


def test_encoder_without_its_hardware_is_an_output_that_is_down(tmp_path: Path) -> None:
    """FFmpeg has h264_qsv but the machine lacks its hardware: Motion JPEG of the same view works."""
    config = view_config({"kind": "hls", "encoder": "h264_qsv"}, {"kind": "mjpeg"})
    with (
        StatusCollector(tmp_path) as statuses,
        Role(tmp_path, config, "capture"),
        Role(tmp_path, config, "view") as view,
        JpegReader(tmp_path) as reader,
    ):
        down = statuses.wait("output.down").data
        assert down.output == "cam-hls"
        assert str(down.reason).startswith("encoder `h264_qsv` cannot be opened for pictures of ")
        reader.next()
        assert view.end() == 0


# Encoding and files


def test_key_frames_come_every_second() -> None:
    keys = [one.pts / CLOCK_HZ for _, one in encode(4.5) if one.key]
    assert keys == pytest.approx([0, 1, 2, 3, 4], abs=0.05)


def test_encoded_times_strictly_increase() -> None:
    encoder = Encoder("libx264", 128, 96, 25)
    image = np.zeros((96, 128, 3), np.uint8)
    found = [one.pts for at in (0.0, 0.04, 0.04, 0.02, 0.1) for one in encoder.encode(image, at)]
    assert found == sorted(set(found))


def test_mp4_segments_follow_without_a_gap(tmp_path: Path) -> None:
    write(Mp4(stream="gate", path=tmp_path, segment=2.0), 5)
    probes = [ffprobe(file) for file in files(tmp_path, "gate-*Z.mp4")]
    assert [int(probe["nb_read_frames"]) for probe in probes] == [50, 50, 25]
    assert all(float(probe["start_time"]) == 0 for probe in probes)
    assert all(eval_rate(probe["avg_frame_rate"]) == pytest.approx(25, abs=0.5) for probe in probes)


def eval_rate(text: str) -> float:
    number, _, by = text.partition("/")
    return int(number) / int(by)


def test_mp4_file_is_playable_while_it_is_written(tmp_path: Path) -> None:
    writer = write(Mp4(stream="gate", path=tmp_path), 1.0, close=False)
    (file,) = files(tmp_path)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(file.read_bytes())
    assert int(ffprobe(copy)["nb_read_frames"]) >= 24
    writer.close()
    assert int(ffprobe(file)["nb_read_frames"]) == 25


def test_old_files_of_the_view_only_are_deleted(tmp_path: Path) -> None:
    other = tmp_path / "yard-20200101T000000.000Z.mp4"
    mine = tmp_path / "gate-20200101T000000.000Z.mp4"
    note = tmp_path / "gate-notes.mp4"
    longer = tmp_path / "gate-yard-20200101T000000.000Z.mp4"
    for file in (other, mine, note, longer):
        file.write_bytes(b"x")
        os.utime(file, (1, 1))
    write(Mp4(stream="gate", path=tmp_path, keep=3600.0), 0.4)
    assert not mine.exists()
    assert other.exists()
    assert note.exists()
    assert longer.exists()


def test_oldest_files_over_max_bytes_are_deleted(tmp_path: Path) -> None:
    for number in range(4):
        file = tmp_path / f"gate-2026010{number + 1}T000000.000Z.mp4"
        file.write_bytes(b"x" * (500 << 10))
        os.utime(file, (time.time() - 100 + number,) * 2)
    write(Mp4(stream="gate", path=tmp_path, max_bytes=1 << 20), 0.4)
    assert [file.name[5:13] for file in files(tmp_path)][:2] == ["20260103", "20260104"]
    assert len(files(tmp_path)) == 3


def test_disk_failure_is_reported_and_retried(tmp_path: Path) -> None:
    folder = tmp_path / "video"
    folder.mkdir()
    config = view_config({"kind": "mp4", "path": str(folder), "segment": "1s"}, {"kind": "hls"})
    with StatusCollector(tmp_path) as statuses, Role(tmp_path, config, "capture"), Role(tmp_path, config, "view"):
        until(lambda: files(folder), 30, "a file")
        moved = folder.rename(tmp_path / "moved")
        down = statuses.wait("output.down").data
        assert (down.output, down.reason) == ("cam-mp4", "No such file or directory")
        segments = len(files(tmp_path / "hls" / "cam", "*.m4s"))
        moved.rename(folder)
        assert statuses.wait("output.up").data.output == "cam-mp4"
        assert segments > 0


def test_hls_continues_after_the_view_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "hls" / "cam"
    config = view_config({"kind": "hls"})

    def newest() -> int:
        return max((int(file.stem[4:]) for file in files(folder, "seg_*.m4s")), default=-1)

    with StatusCollector(tmp_path), Role(tmp_path, config, "capture"), Role(tmp_path, config, "view") as view:
        until(lambda: newest() >= 2, 30, "some segments")
        view.restart()
        killed = newest()
        until(lambda: newest() >= killed + 5, 60, "segments after the restart")
        text = (folder / "index.m3u8").read_text()
        assert text.count("#EXTINF:") == 6
        assert '#EXT-X-MAP:URI="init_320x240.mp4"' in text
        assert "#EXT-X-ENDLIST" not in text
        assert "#EXT-X-DISCONTINUITY" in text
        # On a busy computer some segments are shorter or longer than a second.
        assert 0.8 < median(float(line[8:-1]) for line in text.splitlines() if line.startswith("#EXTINF:")) < 1.5
        assert len(files(folder, "seg_*.m4s")) <= 9
        options = {"allowed_extensions": "ALL", "extension_picky": "0", "live_start_index": "0"}
        with av.open(str(folder / "index.m3u8"), options=options, timeout=10) as container:
            pictures = [frame for frame, _ in zip(container.decode(video=0), range(75), strict=False)]
        assert len(pictures) == 75


# Between processes


def test_push_process_receives_from_a_key_frame_on(tmp_path: Path) -> None:
    publisher, subscriber = PacketPublisher(tmp_path, "gate"), PacketSubscriber(tmp_path, "gate")
    sent, received = [], []
    for number, (encoder, one) in enumerate(encode(2.4)):
        if number == 0:
            publisher.open(encoder.template)
        publisher.write(one)
        sent.append(one)
        subscriber.socket.poll(20)
        if (got := subscriber.receive()) is not None:
            received.append(got)
    while subscriber.socket.poll(100) and (got := subscriber.receive()):
        received.append(got)
    assert received[0].key
    assert [one.pts for one in received] == [one.pts for one in sent[-len(received) :]]
    assert len(received) >= 10
    subscriber.close()
    publisher.close()


def test_push_process_drops_invalid_messages(tmp_path: Path) -> None:
    subscriber = PacketSubscriber(tmp_path, "gate")
    with zmq.Context() as context, context.socket(zmq.PUB) as rogue:
        rogue.bind(packets_endpoint(tmp_path, "gate"))

        def sent() -> bool:
            for message in ([b"x"], [b"x", b"y"], [b"", b"y", b"z"]):
                rogue.send_multipart(message)
            return bool(subscriber.socket.poll(20))

        until(sent, 10, "a message arrives")
        assert subscriber.receive() is None
    subscriber.close()


def test_view_receives_results_of_its_stream_only(tmp_path: Path) -> None:
    live, gate = ResultPublisher(tmp_path, {}), ResultSubscriber(tmp_path, "gate")

    def received() -> list[ResultEvent]:
        live.publish(event(stream="gate10"))
        live.publish(event(stream="gate"))
        return [item for item in gate.receive() if isinstance(item, ResultEvent)]

    found = until(received, 10, "a result")
    live.close()
    gate.close()
    assert {one.data.stream for one in found} == {"gate"}


def test_push_reconnects_after_its_receiver_was_killed(tmp_path: Path) -> None:
    with RtspReceiver() as receiver:
        config = view_config({"kind": "rtsp_push", "url": receiver.push_url})
        with (
            StatusCollector(tmp_path) as statuses,
            Role(tmp_path, config, "capture"),
            Role(tmp_path, config, "view"),
            Role(tmp_path, config, "push", "cam-rtsp_push") as push,
        ):
            statuses.wait("output.up")
            probe = ffprobe(receiver.play_url, "-rtsp_transport", "tcp", "-read_intervals", "%+2")
            assert (probe["codec_name"], probe["width"], probe["height"]) == ("h264", 320, 240)
            assert 10 < int(probe["nb_read_frames"]) < 70  # fewer on a busy computer
            receiver.kill()
            down = statuses.wait("output.down").data
            assert (down.output, down.state) == ("cam-rtsp_push", "down")
            assert down.retry_in_s is not None
            receiver.start()
            statuses.wait("output.up", 2)
            assert readable(receiver) > 10
            assert push.end() == 0


def readable(receiver: RtspReceiver) -> int:
    """Return the number of frames that a player of the relayed stream decodes in two seconds."""
    probe = ffprobe(receiver.play_url, "-rtsp_transport", "tcp", "-read_intervals", "%+2")
    return int(probe["nb_read_frames"])


def test_frozen_receiver_and_killed_view_affect_nothing_else(tmp_path: Path) -> None:
    """The whole program. A frozen receiver: it is noticed, inference goes on meanwhile, and the push resumes.

    A killed view: its file is playable, it restarts, and no other process restarts.
    """
    video = tmp_path / "video"
    video.mkdir()
    with RtspReceiver() as receiver:
        camera = {"source": "synthetic?size=320x240", "tasks": [{"task": "object_detection", "every": "500ms"}]}
        outputs = [
            {"kind": "rtsp_push", "stream": "gate", "name": "push", "url": receiver.push_url},
            {"kind": "mp4", "stream": "gate", "path": str(video)},
        ]
        file = faulty.config(tmp_path, {"gate": camera}, {}, outputs=outputs)
        environment = faulty.install(tmp_path / "installed")
        with RunningAgent(tmp_path / "agent", ["run", str(file)], tmp_path / "events.jsonl", environment) as running:
            until(lambda: running.statuses("output.up"), START_S, f"the push is connected; {running.log()}")
            running.wait_for_results(4, START_S)
            before = running.children()
            receiver.freeze()
            (down,) = until(lambda: running.statuses("output.down"), START_S, f"the push is down; {running.log()}")
            assert down["data"]["reason"].startswith("the receiver has ")
            running.wait_for_results(len(running.results()) + 4, START_S)
            ups = len(running.statuses("output.up"))
            receiver.thaw()
            until(lambda: len(running.statuses("output.up")) > ups, START_S, f"the push resumes; {running.log()}")
            assert readable(receiver) > 10

            (recording,) = files(video)
            view = running.kill("view:gate", signal.SIGKILL)
            assert int(ffprobe(recording)["nb_read_frames"]) > 25
            until(lambda: running.children().get("view:gate", view) != view, 10, "the view restarts")
            until(lambda: len(files(video)) == 2, 20, "the new view writes")
            assert readable(receiver) > 10
            after = running.children()
            same = {name: pid for name, pid in before.items() if not name.startswith("view")}
            assert same == {name: after[name] for name in same}
            running.stop()
    boxes = [box for one in running.results() for box in one["data"]["result"]["boxes"]]
    assert any("track" in box for box in boxes)
    assert all(int(ffprobe(one)["nb_read_frames"]) > 0 for one in files(video))


def test_push_settings_never_show_the_password() -> None:
    push = RtspPush.model_validate({"stream": "gate", "url": "rtsp://eve:hunter22@127.0.0.1/x"})
    assert "hunter22" not in f"{push!r} {push}"
