"""The quarantine of the whole agent, kept by the parent: a suspect of one inference process is a suspect in all.

The parent learns from the crash journal of a process that has ended, before another process gets its streams.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from streamer.bus.stream_state import QuarantineRows
from streamer.config.model import Stream
from streamer.inference import journal
from streamer.inference.quarantine import Quarantine, Verdict
from streamer.processes.assignment import Role, child_name
from streamer.types import Result


class AgentQuarantine:
    """Suspects and blocked tasks of all streams."""

    def __init__(self, runtime: Path, recordings: Collection[str], processes: Collection[str | None]) -> None:
        """Recover what an earlier agent has left in `runtime`. `processes`: targets of the inference processes."""
        self._runtime, self._recordings = runtime, recordings
        self._quarantine = Quarantine(recordings)
        self._verdicts: list[Verdict] = []
        for process in processes:
            left = self._journal(process)
            self._quarantine.add(left.quarantine)
            self._count(left)

    def rows(self, streams: Collection[str] | None = None) -> QuarantineRows:
        """Return what is known of these streams, or of all."""
        return self._quarantine.rows(streams)

    def on_exit(self, process: str | None, streams: Collection[str], was_killed: bool) -> None:
        """Learn from the journal of a process that has ended. `streams`: those that it served."""
        left = self._journal(process)
        known = Quarantine(self._recordings, left.quarantine)
        for stream in streams:
            self.on_released(stream, known.rows({stream}))
        if not was_killed:
            self._count(left)

    def on_released(self, stream: str, rows: QuarantineRows) -> None:
        """A process has given up a stream, of which it knew this."""
        self._quarantine.forget(stream)
        self._quarantine.add(rows)

    def take_lost(self, process: str | None, streams: Mapping[str, Stream]) -> list[Result]:
        """Return the outcomes of the jobs that a process left which is not started again. Remove its journal."""
        lost = journal.lost_jobs(self._journal(process), streams)
        journal.journal_path(self._runtime, child_name(Role.INFER, process)).unlink(missing_ok=True)
        return lost

    def take_verdicts(self) -> list[Verdict]:
        """Return the verdicts since the last call."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def _journal(self, process: str | None) -> journal.State:
        return journal.read(journal.journal_path(self._runtime, child_name(Role.INFER, process)))

    def _count(self, left: journal.State) -> None:
        """Count the death of a process for the jobs that its engine had."""
        suspect_of = self._quarantine.suspect_of
        suspects = [suspect_of(row.frame.stream, row.name, row.frame.id) for row in left.jobs if row.running]
        if (verdict := self._quarantine.on_crash(suspects, time.monotonic())) is not None:
            self._verdicts.append(verdict)
