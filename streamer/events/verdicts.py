"""People's verdicts on incidents, in a file of their own that no retention deletes, and the precision of a rule."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from streamer.core import atomic_file
from streamer.core.logs import RareLog
from streamer.core.reasons import reason_of
from streamer.events.command_data import Verdict
from streamer.events.part import Part

log = logging.getLogger(__name__)

FILE = "feedback.jsonl"
"""File name in the state folder of the agent: one verdict per line, later ones replace earlier ones."""


class Judgement(Part):
    """A verdict on an incident, with what is needed to judge the rule when its events are deleted."""

    incident: str
    rule: str
    stream: str
    verdict: Verdict
    by: str
    time: str
    """Time of the verdict."""
    rule_hash: str | None = None
    """Hash of the rule that made the incident; null if its events are not in the ledger any more."""
    conditions: tuple[str, ...] = ()
    """Parts of the rule's condition that were true."""
    best_score: float | None = None
    """Highest score of an answer for which the condition was true."""
    start_score: float | None = None
    """Lowest score of the answers that started the incident."""


class Precision(NamedTuple):
    """Incidents of a rule that people have judged."""

    right: int
    wrong: int

    @property
    def share(self) -> float | None:
        """Part of the judged incidents that is right; None if none is judged."""
        judged = self.right + self.wrong
        return self.right / judged if judged else None

    def __str__(self) -> str:
        if self.share is None:
            return "no feedback"
        return f"precision {100 * self.share:.0f} % ({self.right} right, {self.wrong} wrong)"


def precision(judgements: Iterable[Judgement], rule: str, hashes: Collection[str] | None = None) -> Precision:
    """Return the precision of a rule. `hashes`: of these definitions only, such as the present one on its streams."""
    of_rule = [one for one in judgements if one.rule == rule]
    found = [one.verdict for one in of_rule if hashes is None or one.rule_hash in hashes]
    return Precision(found.count("right"), found.count("wrong"))


class VerdictFile:
    """The verdicts of an agent. One process adds, others read."""

    def __init__(self, state: Path) -> None:
        """`state`: the state folder of the agent."""
        self._path = state / FILE
        self._pending: list[bytes] = []
        self._unwritten = RareLog(log, "verdicts on incidents not stored, attempt %d, file %s: %s; tried again")
        self._read: tuple[tuple[int, int, int], dict[str, Judgement]] | None = None

    def add(self, judgement: Judgement) -> None:
        """Store a verdict. It stays pending while the file cannot be written."""
        self._pending.append(judgement.model_dump_json(exclude_none=True).encode() + b"\n")
        self.store()

    def store(self) -> bool:
        """Return whether all verdicts are on the disk."""
        if not self._pending:
            return True
        try:
            _append(self._path, b"".join(self._pending))
        except OSError as error:
            self._unwritten.add(self._path, reason_of(error, "verdicts"))
            return False
        self._pending.clear()
        return True

    def judgements(self) -> dict[str, Judgement]:
        """Return the newest verdict on each incident. Lines that this version cannot read are passed over."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
            state = found.st_ino, found.st_size, found.st_mtime_ns
            if self._read is None or self._read[0] != state:
                self._read = state, _parse(atomic_file.read(self._path))
        except OSError:  # there is none yet, or it cannot be read
            return {}
        return self._read[1]


def _append(path: Path, lines: bytes) -> None:
    """Append lines and return once they are on the disk. A line that a crash has cut is ended first."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        while lines:
            lines = lines[os.write(descriptor, lines) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(content: bytes) -> dict[str, Judgement]:
    found: dict[str, Judgement] = {}
    for line in content.splitlines():
        try:
            one = Judgement.model_validate_json(line)
        except ValidationError:
            continue
        found.pop(one.incident, None)
        found[one.incident] = one
    return found
