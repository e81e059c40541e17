"""The real rules process beside a real emit process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from streamer.config.model import Config
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import IncidentEvent, decode
from streamer.processes.assignment import Assignment, Role
from streamer.processes.config_part import part_of
from tests.support.worker_process import start_worker


class Workers:
    """Processes of an agent without cameras and model, by role; a context manager that kills them."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.runtime, self.state = folder, folder / "run", folder / "state"
        self.runtime.mkdir()
        self.state.mkdir()
        self.ledger = self.state / LEDGER_FILE
        self.config, self._running = config, dict[Role, tuple[Any, int]]()

    def __enter__(self) -> Workers:
        for role in (Role.EMIT, Role.RULES):
            self.start(role)
        return self

    def __exit__(self, *_: object) -> None:
        for role in list(self._running):
            self.kill(role)

    def start(self, role: Role) -> None:
        part = part_of(self.config, role, None)
        assignment = Assignment(config=part, runtime=self.runtime, state=self.state)
        self._running[role] = start_worker([role.value], assignment, self.folder / f"{role}.log")

    def kill(self, role: Role) -> None:
        """Send SIGKILL."""
        process, reports = self._running.pop(role)
        process.kill()
        process.wait()
        process.stdin.close()
        os.close(reports)

    def pid(self, role: Role) -> int:
        return int(self._running[role][0].pid)

    def restart_ended(self, role: Role, seconds: float) -> None:
        """Wait until a process has ended by itself, and start it again, as the parent does."""
        process, reports = self._running.pop(role)
        process.wait(timeout=seconds)
        process.stdin.close()
        os.close(reports)
        self.start(role)

    def subjects(self) -> list[str]:
        """Return the subjects of the events in the ledger."""
        with contextlib.closing(LedgerQuery(self.ledger)) as query:
            return [decode(entry.body).subject for entry in query.after(0, 10_000).entries]

    def incidents(self) -> list[IncidentEvent]:
        """Return the incident events in the ledger, without their sequence."""
        with contextlib.closing(LedgerQuery(self.ledger)) as query:
            events = [decode(entry.body) for entry in query.after(0, 10_000).entries]
        return [one.model_copy(update={"sequence": ""}) for one in events if isinstance(one, IncidentEvent)]
