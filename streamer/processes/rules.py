"""The rules process: reads the ledger from its own position and sends incident events to emit.

What it sends follows from the events of the ledger alone. Its state is stored together with its position, once emit has
acknowledged every incident up to there. After a kill it reads the later events again and sends the same incidents with
the same ids, which the ledger drops.
"""

from __future__ import annotations

import gc
import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING

import apsw
import zmq

from streamer.bus.event_channel import EventClient
from streamer.config.modes import Switch, last_switch
from streamer.config.rule import RULES, STATE_FILE
from streamer.core.errors import WireError
from streamer.core.logs import RareLog
from streamer.core.reasons import reason_of
from streamer.events.build import clock_event, command_event
from streamer.events.command_data import CommandData
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.cursor import advance_reader, position_of
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import IncidentEvent, StatusEvent
from streamer.events.snapshots.keeper import SnapshotKeeper
from streamer.processes.assignment import ReportKind
from streamer.processes.judgements import Judgements
from streamer.processes.ledger_damage import LedgerDamage
from streamer.processes.rules_commands import RulesCommands
from streamer.processes.worker import Worker
from streamer.rules.activity import best_frames
from streamer.rules.engine import Engine
from streamer.rules.learning import learn
from streamer.rules.published import published_behind
from streamer.rules.reader import read
from streamer.rules.replay import recall
from streamer.rules.saved_state import load_head
from streamer.rules.state_file import StateFile

if TYPE_CHECKING:
    from streamer.processes.wrong_incidents import WrongIncidents

log = logging.getLogger(__name__)

POLL_S = 0.06
"""Interval at which the ledger is read."""
BATCH = 256
"""Events per read."""
GARBAGE = 10_000
"""New objects after which garbage is looked for. Those of an event are freed without that."""
START_S = 60.0
"""Maximum seconds to build the conditions and read the stored state."""
SAVE_S, SAVE_SHARE = 10.0, 0.01
"""Least seconds between two stores of the state, and largest share of the time for them: incidents wait meanwhile, and
a slow disk must not delay more than one in a hundred. After a kill, the events since the last store are read again."""
FLUSH_S = 1.5
"""Longest wait for the acknowledgements of incidents before the state is stored at a stop."""
SCHEDULE_S = 0.5
"""Interval at which the schedule of the modes is looked at."""
CLOCK_S, CLOCK_EVERY_S = 0.5, 5.0
"""Seconds after a deadline without a later event until a `rules.clock` is sent, and shortest time between two."""


def run(worker: Worker) -> None:
    """Serve until asked to stop."""
    ledger = worker.state / LEDGER_FILE
    with EventClient(worker.runtime, "rules") as events, closing(LedgerQuery(ledger, is_decoded=True)) as query:
        position = position_of(ledger, RULES)
        while position is None and not worker.stopping:  # emit has not opened the ledger yet
            worker.heartbeat.beat()
            time.sleep(POLL_S)
            position = position_of(ledger, RULES)
        if position is None:
            return
        worker.heartbeat.beat("loading", START_S)
        with closing(Rules(worker, query, events, position)) as rules:
            rules.save()  # a new file takes longest: here it delays no incident
            gc.collect()
            gc.freeze()  # with many rules, a search of all these objects for garbage takes a quarter of a second
            gc.set_threshold(GARBAGE)
            worker.report(ReportKind.READY)
            while not worker.stopping:
                rules.poll_once()
            rules.finish()


class Rules:
    """The engine, and its place in the ledger."""

    def __init__(self, worker: Worker, query: LedgerQuery, events: EventClient, position: int) -> None:
        """`position`: that of the ledger, from which on without a stored state the events are read."""
        self.worker, self.query, self.events, self.position = worker, query, events, position
        self.engine = Engine(worker.config)
        self.snapshots = SnapshotKeeper(worker.state, worker.config.snapshots)
        self._unreadable = RareLog(log, "unreadable event %d passed over, position %d: %s")
        self._unsaved = RareLog(log, "state of the rules cannot be stored, try %d: %s")
        self._damage = LedgerDamage(worker.config.name, worker.state / LEDGER_FILE, self.send_event)
        self._file = StateFile(worker.state / STATE_FILE)
        self._save_at, self._saved_position = time.monotonic() + SAVE_S, -1
        self._clock_sent_at = -CLOCK_EVERY_S
        self._is_behind = True
        self._schedule_seen = -SCHEDULE_S
        self._switch_sent: Switch | None = None
        self.commands = RulesCommands(worker.runtime, query, self.send_event)
        self._judgements = Judgements(worker.state, query, _wrong_incidents(worker, query))
        self._poller = zmq.Poller()
        for readable in (self.commands.socket, worker.stop_fd):  # acknowledgements wait for the next read
            self._poller.register(readable, zmq.POLLIN)
        self._load()
        self._learn(self.position)

    def close(self) -> None:
        self.commands.close()
        self.snapshots.close()
        self._file.close()

    def poll_once(self) -> None:
        """Read the new events of the ledger, send the incidents that follow, and wait until the next read is due."""
        begun = time.monotonic()
        self.worker.heartbeat.beat()
        self._is_behind = self._read() == BATCH
        self.events.resend()
        until = begun + POLL_S
        if time.monotonic() >= self._save_at and self.events.flush(until - time.monotonic()):
            self.save()
        if not self._is_behind:
            if self.snapshots.renewal_due:
                self.snapshots.renew(best_frames(self.engine.activities.values()))
            self._poller.poll(max(0, round(1000 * (until - time.monotonic()))))
        self.commands.poll_once(self.engine)
        self._send_clock()
        self._send_switch()
        self.events.receive()
        self.events.resend()

    def finish(self) -> None:
        """Read what has arrived, and store the state if emit still acknowledges the incidents."""
        while self._read() == BATCH:
            self.worker.heartbeat.beat()
        if self.events.flush(FLUSH_S):
            self.save()

    def _read(self) -> int:
        """Return the number of events read. Nothing is read while emit does not acknowledge incidents."""
        if self.events.window_full:
            return 0
        page = self.query.after(self.position, BATCH)
        self._damage.observe(page, time.monotonic())
        for entry in page.entries:
            try:
                event = read(entry.body)
            except WireError as error:
                self._unreadable.add(entry.position, error)
                continue
            if event is None:
                continue
            for found in self.engine.process(event, entry.created):
                self._send(found)
            if self.engine.new:
                self._learn(entry.position)
            if isinstance(event, StatusEvent):
                self._judgements.on_event(event)
                self.commands.on_event(event.id)
        self.position = page.position
        return len(page.entries)

    def _learn(self, until: int) -> None:
        for _ in learn(self.query, self.engine, until):
            self.worker.heartbeat.beat("loading", START_S)

    def _send(self, event: IncidentEvent | StatusEvent) -> None:
        if isinstance(event, IncidentEvent):
            self.snapshots.keep(event)
            log.debug("incident of rule %s on %s: %s", event.data.rule, event.data.stream, event.data.state)
        self.send_event(event)

    def send_event(self, event: IncidentEvent | StatusEvent) -> None:
        """Send an event in this turn, together with the others."""
        self.events.queue(event, None)

    def _send_clock(self) -> None:
        """Advance the engine's clock by way of the ledger, so that a replay sees the same."""
        deadline, now = self.engine.deadline, time.monotonic()
        if deadline is None or time.time() < deadline + CLOCK_S or now - self._clock_sent_at < CLOCK_EVERY_S:
            return
        self._clock_sent_at = now
        self.send_event(clock_event(self.worker.config.name))

    def _send_switch(self) -> None:
        """Send the last scheduled switch of the mode that is due, also one that was due while the agent was stopped."""
        state, config = self.engine.controls.state, self.worker.config
        if not config.modes or self._is_behind or time.monotonic() < self._schedule_seen + SCHEDULE_S:
            return
        self._schedule_seen = time.monotonic()
        due = last_switch(config.modes, config.timezone, state.switched_at or 0.0, time.time())
        if due is None or due.mode == state.mode or due == self._switch_sent:
            return
        self._switch_sent = due
        command = CommandData(by="schedule", mode=due.mode)
        self.send_event(command_event(config.name, "mode", command, f"{due.mode} at {due.at:.0f}"))

    def _load(self) -> None:
        """Continue from the stored state. Without a readable one, the rules begin without knowledge."""
        try:
            stored = self._file.read()
            is_behind = stored.position <= self.query.head()  # else the ledger was replaced
            published = published_behind(self.query, stored.position) if is_behind else {}
            ends = self.engine.load(stored.state, published)
        except FileNotFoundError:
            recall(self.engine, self.query, self.position)
            return
        except (OSError, ValueError) as error:
            path, why = self.worker.state / STATE_FILE, str(error) if type(error) is ValueError else "it cannot be read"
            log.warning("state of the rules in %s is damaged or of another version (%s): they begin anew", path, why)
            self._file.close()
            self.engine = Engine(self.worker.config)
            recall(self.engine, self.query, self.position)
            return
        if is_behind:
            self.position = max(stored.position, self.position)
        before, mode = load_head(stored.state.head).controls.mode, self.engine.controls.state.mode
        if before not in (None, mode):
            log.warning("mode %s is not in the config any more: the mode is %s", before, mode)
        for event in ends:
            self._send(event)

    def save(self) -> None:
        """Store state and position, unless an incident is not acknowledged or a verdict not stored yet."""
        if self.events.unacked or self.position == self._saved_position or not self._judgements.store():
            return
        begun = time.monotonic()
        try:
            if self.worker.config.rules:
                self._file.store(self.position, self.engine)
            else:  # the incidents of the removed rules have ended: the next start needs no rules process
                self._file.delete()
            advance_reader(self.worker.state / LEDGER_FILE, RULES, self.position)
            self._saved_position = self.position
        except (OSError, apsw.Error) as error:
            self._unsaved.add(reason_of(error, "rules"))
        self._save_at = begun + max(SAVE_S, (time.monotonic() - begun) / SAVE_SHARE)


def _wrong_incidents(worker: Worker, query: LedgerQuery) -> WrongIncidents | None:
    """Return what collects wrong incidents; None, without an import, if no stream wants it."""
    if not any(stream.collect and stream.collect.feedback for stream in worker.config.streams.values()):
        return None
    from streamer.processes.wrong_incidents import WrongIncidents

    return WrongIncidents(worker.state, worker.config, query)
