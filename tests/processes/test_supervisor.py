"""The parent with real children that hang, are stopped or fail: it detects, dumps, replaces and restarts them."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamer.inference.step_timeout import FIRST_S, MIN_S, StepTimeout
from streamer.processes.assignment import Report, ReportKind, Role
from streamer.processes.child import (
    FAILURES_S,
    HEALTHY_S,
    MAX_FAILURES,
    MAX_REPORT_BYTES,
    SLOW_DELAY_S,
    Child,
    Restarts,
)
from streamer.processes.fork_client import ChildProcess
from streamer.processes.heartbeat import Heartbeat
from streamer.processes.supervisor import Supervisor
from streamer.types import DueTask, Job, Task
from tests.support import faulty
from tests.support.agents import (
    Event,
    RunningAgent,
    assert_identity,
    assert_no_duplicates,
    assert_no_holes,
    is_alive,
    until,
)
from tests.support.tasks import PARAMS, frame

CAMERA = {"source": "synthetic?fps=25&size=160x120", "tasks": [{"task": "caption", "every": "100ms"}]}
START_S = 100.0


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """One agent for all faults of this module; at the end its events are checked for completeness."""
    folder = tmp_path_factory.mktemp("agent")
    file = faulty.config(folder, {"gate": CAMERA}, {"hang": str(folder / "hang"), "fails": str(folder / "fails")})
    environment = faulty.install(folder / "installed")
    with RunningAgent(folder, ["run", str(file)], folder / "events.jsonl", environment) as agent:
        agent.wait_for_results(5, START_S)
        yield agent
        agent.stop()
        assert_identity(agent.statuses("stream.stopped", "gate")[-1]["data"]["frames"])
        assert_no_duplicates(agent.events())
        assert_no_holes(agent.events())


class Since:
    """Log and restart events of an agent from now on."""

    def __init__(self, agent: RunningAgent) -> None:
        self._agent = agent
        self._log, self._restarts = len(agent.errors.read_text()), len(agent.statuses("worker.restarted"))

    def log(self) -> str:
        return self._agent.errors.read_text()[self._log :]

    def restarts(self) -> list[Event]:
        return self._agent.statuses("worker.restarted")[self._restarts :]

    def is_stuck(self, name: str) -> bool:
        return f"{name} stuck (no heartbeat" in self.log()


def test_hanging_engine_is_dumped_and_replaced(agent: RunningAgent) -> None:
    since, before, hang = Since(agent), agent.children(), agent.folder / "hang"
    hang.touch()
    until(lambda: since.is_stuck("infer"), START_S, f"it is noticed; {agent.log()}")
    hang.unlink()
    restarted = until(since.restarts, START_S, f"a new one; {agent.log()}")[0]["data"]
    assert (restarted["worker"], restarted["reason"]) == ("infer", "killed: no heartbeat while batch")
    stacks = since.log().partition("infer left its stacks:")[2]
    assert '/tests/support/faulty.py", line' in stacks
    known = len(agent.results())
    agent.wait_for_results(known + 5, START_S)
    after = agent.children()
    assert not is_alive(before.pop("infer"))
    assert before == {name: pid for name, pid in after.items() if name != "infer"}


def test_stopped_processes_are_dumped_and_replaced(agent: RunningAgent) -> None:
    since = Since(agent)
    stopped = {name: agent.kill(name, signal.SIGSTOP) for name in ("infer", "capture:gate", "emit")}
    for name in stopped:
        until(partial(since.is_stuck, name), START_S, f"{name} is noticed")
    until(
        lambda: all(agent.children().get(name, pid) != pid for name, pid in stopped.items()),
        START_S, f"all are replaced; {agent.log()}",
    )  # fmt: skip
    for name in stopped:  # on a busy computer a process is killed before it has written the stacks of all threads
        assert '.py", line' in since.log().partition(f"{name} left its stacks:")[2]
    known = len(agent.results())
    agent.wait_for_results(known + 5, START_S)
    until(lambda: len(since.restarts()) == len(stopped), START_S, "all restarts are reported once emit runs again")


def test_suspended_agent_replaces_no_child(agent: RunningAgent) -> None:
    """All processes stop and continue together, as in a virtual machine that is suspended."""
    since, before = Since(agent), agent.children()
    everyone = [agent.process.pid, *before.values()]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(9)  # longer than the heartbeat deadline: no replacement must follow
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
    known = len(agent.results())
    agent.wait_for_results(known + 5, START_S)
    assert agent.children() == before
    assert not since.restarts()


def test_crash_reason_is_reported_and_restarts_go_on(agent: RunningAgent) -> None:
    since, fails = Since(agent), agent.folder / "fails"
    fails.touch()
    agent.kill("infer")
    _, *failed = until(lambda: found if len(found := since.restarts()) >= 4 else [], START_S, "it is tried again")
    name = re.fullmatch(r"internal error ([0-9a-f]{6}): the log has the details", failed[0]["data"]["reason"])
    assert name is not None
    stack = since.log().partition(f"infer: internal error {name[1]}\n")[2]
    assert stack.count("RuntimeError: no device") == 1, "the stack of a repeated error is logged once"
    assert failed[2]["data"]["retry_in_s"] > 0.15
    fails.unlink()
    known = len(agent.results())
    agent.wait_for_results(known + 3, START_S)


def test_child_that_hangs_after_its_report_is_killed(tmp_path: Path) -> None:
    child = Child(Role.INFER, failure_reason="no device", heartbeat=Heartbeat())
    child.heartbeat.beat("idle", 0.0)
    with subprocess.Popen(["sleep", "60"], process_group=0) as process:
        child.process = ChildProcess(process.pid, os.dup(0))
        now = time.monotonic()
        for after in (0.0, 1.0, 3.0):
            child.check_heartbeat(now + after, 0.0)
        assert child.process.wait() == -signal.SIGUSR1
        child.process.stdin.close()
    assert child.failure_reason == "no device"


def test_reports_that_a_role_never_makes_are_ignored() -> None:
    supervisor = SimpleNamespace(stop_at=None, incomplete=None)
    for role, kind in ((Role.CAPTURE, "finished"), (Role.INFER, "incomplete"), (Role.VIEW, "unreadable")):
        child = Child(role, "gate", stream="gate")
        Supervisor.on_report(supervisor, child, Report(kind=ReportKind(kind)))  # type: ignore[arg-type]
        assert (supervisor.stop_at, supervisor.incomplete, child.unreadable) == (None, None, None)
    Supervisor.on_report(supervisor, Child(Role.EMIT), Report(kind=ReportKind.FINISHED))  # type: ignore[arg-type]
    assert supervisor.stop_at == 0.0


def test_restarts_slow_down_degrade_and_recover() -> None:
    restarts, now = Restarts(random.Random(1)), 1000.0
    waits = []
    for _ in range(MAX_FAILURES):
        waits.append(restarts.failed(now, 0.1))
        now += 0.1 + waits[-1]
    assert waits[0] <= 0.1
    assert waits[6] > 2
    assert max(waits) <= 30
    assert SLOW_DELAY_S / 2 <= restarts.failed(now, 0.1) <= SLOW_DELAY_S
    assert restarts.failed(now + FAILURES_S * 3, 1.0) >= SLOW_DELAY_S / 2  # not alone because time has passed
    assert not restarts.recovered(HEALTHY_S - 1)
    assert restarts.recovered(HEALTHY_S + 1)
    assert not restarts.recovered(HEALTHY_S + 1)
    assert restarts.failed(now, HEALTHY_S + 1) <= 0.1


def test_step_timeout_is_five_times_the_longest_step() -> None:
    timeout = StepTimeout()
    quick, slow = (Job(DueTask("a", Task(task, task, PARAMS), 0.0), frame(1)) for task in ("quick", "slow"))
    assert timeout.seconds([quick]) == FIRST_S
    timeout.observe([quick], [], 0.1)
    assert timeout.seconds([quick]) == FIRST_S
    timeout.observe([quick], [quick], 0.2)
    assert timeout.seconds([quick]) == MIN_S
    assert timeout.seconds([quick, slow]) == FIRST_S
    timeout.observe([quick, slow], [slow], 10.0)
    assert timeout.seconds([slow]) == 50.0
    for _ in range(1000):
        timeout.observe([quick], [quick], 0.2)
    assert timeout.seconds([quick]) == MIN_S
    assert timeout.seconds([slow]) == 50.0


def test_heartbeat_outlives_its_writer_and_cannot_be_cut() -> None:
    reader = Heartbeat()
    writer = Heartbeat(reader.descriptor)
    with pytest.raises(PermissionError):
        os.ftruncate(reader.descriptor, 0)
    before = time.monotonic()
    writer.beat("batch", 12.0)
    writer.mark_commit(before)
    del writer
    state = reader.read()
    assert state.state == "batch"
    assert before + 12.0 <= state.deadline <= time.monotonic() + 12.0
    assert reader.committed_at == pytest.approx(before, abs=1e-6)


def test_invalid_state_in_a_heartbeat_is_no_error() -> None:
    heartbeat = Heartbeat()
    os.pwrite(heartbeat.descriptor, b"\xff" * 16, 0)
    assert heartbeat.read().state == "batch"


def test_endless_report_of_a_child_takes_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    child = Child(Role.CAPTURE, "gate")
    child.reports_fd, endless = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(64):
            os.write(endless, b"x" * (1 << 16))
            assert child.read_reports() == []
            assert len(child._unread) <= MAX_REPORT_BYTES
        os.write(endless, b'\n{"kind": "ready"}\n')
        assert [report.kind for report in child.read_reports()] == [ReportKind.READY]
    finally:
        os.close(child.reports_fd)
        os.close(endless)
    assert 1 <= len(caplog.records) <= 7, "32 times invalid, at a falling rate"


BOMBARDED = """
import signal, sys, threading
from pathlib import Path
from streamer.processes.assignment import Assignment
from streamer.processes.worker import Worker
tasks = [{"task": "caption", "every": "1s"}]
config = {"agent": "a", "streams": {"gate": {"source": "synthetic", "tasks": tasks}}}
worker = Worker(Assignment(config=config, runtime=Path("."), state=Path(".")))
signal.signal(signal.SIGTERM, worker.stop)
threading.Thread(target=lambda: [worker.stop() for _ in range(20_000)], daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""


def test_repeated_stop_signals_do_not_deadlock_a_worker() -> None:
    """A signal and the end of a pipe can call `stop` at the same time, so `stop` must take no lock."""
    with subprocess.Popen([sys.executable, "-c", BOMBARDED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        for _ in range(20_000):
            process.terminate()
        process.stdin.close()
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
