"""Swap of the model of a running agent: `streamer model use` and `streamer model back`.

Each device gets a second inference process, which loads the new model and tries it while the first one answers. Then
the streams move as in a planned handover. The first process stands by while the new model is watched: if that fails,
ends, or gives no answers much more often than the model before, the streams move back. Otherwise the choice is saved
and the first process ends. Until then a restart of the agent uses the model before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import zmq

from streamer.bus.commands import ListModels, ModelCommand, UseModel, UseModelBefore
from streamer.bus.rpc import Request, other_target
from streamer.config.model import find_pipeline
from streamer.config.model_choice import Choice, ModelChoices
from streamer.core.errors import EXIT_CONFIG, ConfigError
from streamer.core.reasons import reason_of
from streamer.events.build import model_event, result_event
from streamer.inference.outcome_counts import MIN_ANSWERS, answers, jump, merged
from streamer.processes.assignment import Role
from streamer.processes.child import Child
from streamer.processes.control import Control
from streamer.processes.process_table import Exit, ProcessTable

log = logging.getLogger(__name__)

MORE_WATCH_S = 600.0
"""Longest additional watch of a model that has not given `MIN_ANSWERS`: the memory of two models is in use."""
COUNT_S = 1.0
"""Seconds between two requests for the outcomes of the new model."""


class Phase(StrEnum):
    LOADING = "loading"
    MOVING = "moving streams"
    WATCHING = "watched"
    RETURNING = "returning"
    ENDING = "ending"
    """A process that is not needed any more has not ended yet."""


@dataclass(slots=True)
class _Swap:
    choice: Choice | None
    """The new model; None: that of the config."""
    pairs: dict[str | None, str | None]
    """New processes by the old ones of their devices."""
    new: list[Child]
    request: Request | None
    """To be answered."""
    watch_s: float
    """Seconds for which the new model is watched."""
    phase: Phase = Phase.LOADING
    until: float = 0.0
    """Monotonic second at which the watch ends."""
    count_at: float = 0.0
    reason: str | None = None
    """Why the new model does not stay."""


class ModelSwap:
    """Carries out one swap at a time."""

    def __init__(self, control: Control, table: ProcessTable, choices: ModelChoices) -> None:
        self._control, self._table, self._choices, self._router = control, table, choices, control.router
        self._swap: _Swap | None = None
        self._ending: set[Child] = set()
        self._falling: set[str | None] = set()
        """Processes that were started with a chosen model that cannot be loaded."""
        for target in map(other_target, list(self._router.devices)):  # of an earlier agent, killed after a swap
            self._publish_lost(target, choices.describe(choices.current))
            self._router.clients.remove_sockets(target)

    def poll_once(self) -> None:
        """Handle commands, and go on with a swap as far as that is possible now."""
        for request, command in self._control.take_model_commands():
            try:
                self._handle(request, command)
            except Exception as error:  # whatever a caller sends, the agent runs on and the caller gets an answer
                self._control.reply_error(request, reason_of(error, "model"))
        if (swap := self._swap) is not None:
            self._advance(swap, time.monotonic())

    def is_trial(self, child: Child) -> bool:
        """Return whether the child is to try a model before it gets a stream."""
        return self._swap is not None and self._swap.phase is Phase.LOADING and child in self._swap.new

    def on_ready(self, child: Child) -> None:
        """Move the streams once all new processes are ready."""
        swap = self._swap
        if swap is None or swap.phase is not Phase.LOADING or child not in swap.new:
            return
        if all(one.was_ready for one in swap.new):
            for target in swap.pairs:
                self._router.clients.count_outcomes(target)  # first: these are what the new model is compared with
            swap.phase = Phase.MOVING

    def on_exit(self, child: Child, end: Exit) -> None:
        """Handle the exit of an inference process, before it is started again."""
        swap = self._swap
        if child in self._ending:
            self._remove(child)
        elif swap is not None and child in swap.new:
            child.finished = True
            if swap.phase is Phase.LOADING:
                self._give_up(swap, end.reason if end.code == EXIT_CONFIG else f"its process ended: {end.reason}")
            elif swap.phase in (Phase.MOVING, Phase.WATCHING):
                self._give_up(swap, f"its process ended: {end.reason}")
        elif end.code == EXIT_CONFIG and self._fall_back(child, end.reason):
            child.was_ready = True  # a failed choice is no error in the config

    def _handle(self, request: Request, command: ModelCommand) -> None:
        """Raises ConfigError."""
        swap = self._swap
        match command:
            case ListModels():
                self._control.reply(request, **self._overview())
            case UseModelBefore() if swap is not None and swap.phase in (Phase.LOADING, Phase.MOVING, Phase.WATCHING):
                self._give_up(swap, "ended with `streamer model back`", request)
            case UseModelBefore(watch_s=watch_s):
                if self._choices.current is None:
                    raise ConfigError("no other model was used before: the model of the config runs")
                self._begin(request, self._choices.before, watch_s)
            case UseModel(checkpoint=checkpoint, name=name, hash=digest, watch_s=watch_s):
                self._begin(request, Choice(checkpoint=checkpoint, name=name, hash=digest, at=time.time()), watch_s)

    def _overview(self) -> dict[str, Any]:
        found, swap = self._choices.overview(), self._swap
        if swap is not None:
            left = max(0.0, swap.until - time.monotonic()) if swap.phase is Phase.WATCHING else None
            model = self._choices.describe(swap.choice)
            found["swap"] = {"model": model, "phase": swap.phase, "left_s": left, "reason": swap.reason}
        return found

    def _begin(self, request: Request, choice: Choice | None, watch_s: float) -> None:
        """Start the processes of a new model. Raises ConfigError if that is not possible."""
        choices, router, current = self._choices, self._router, self._choices.current
        if current is not None and choice is not None and choice.hash == current.hash:
            raise ConfigError(f"{choice} is in use already")
        if self._swap is not None:
            name = choices.describe(self._swap.choice)
            raise ConfigError(f"another swap is not over, to {name}: wait, or end it with `streamer model back`")
        old, config = router.placement.chosen, choices.applied(self._control.config, choice)
        devices = find_pipeline().devices(config.model)
        if len(devices) != len(old) or not old:
            raise ConfigError(f"this agent runs {len(old)} models, the new one has {len(devices)} devices: restart it")
        pairs = {target: other_target(target) for target in old}
        new = [Child(Role.INFER, target) for target in pairs.values()]
        for child, device in zip(new, devices, strict=True):
            self._table.watch(int(router.add_process(child.target, device).socket.get(zmq.FD)))
        self._table.add(new)
        self._swap = _Swap(choice, pairs, new, request, watch_s)
        log.info("model %s is loaded beside %s", choices.describe(choice), choices.describe(current))

    def _advance(self, swap: _Swap, now: float) -> None:
        match swap.phase:
            case Phase.MOVING if self._have_moved(swap.pairs.items()):
                swap.phase, swap.until = Phase.WATCHING, now + swap.watch_s
                self._report("changed", swap, f"in place of {self._choices.describe(self._choices.current)}")
                self._answer(swap, f"{self._choices.describe(swap.choice)} serves all streams; it is watched now")
            case Phase.WATCHING:
                self._watch(swap, now)
            case Phase.RETURNING if self._have_moved((new, old) for old, new in swap.pairs.items()):
                swap.phase = Phase.ENDING
                self._answer(swap, f"{self._choices.describe(self._choices.current)} serves all streams")
                self._end(swap.new, now)
            case Phase.ENDING if not self._ending:
                self._swap = None

    def _have_moved(self, pairs: Iterable[tuple[str | None, str | None]]) -> bool:
        return all([self._router.substitute(*pair) for pair in pairs])

    def _watch(self, swap: _Swap, now: float) -> None:
        """Compare the new model with the one before, and decide whether it stays."""
        clients = self._router.clients
        if now >= swap.count_at:
            swap.count_at = now + COUNT_S
            for target in swap.pairs.values():
                clients.count_outcomes(target)
        sides = (swap.pairs.keys(), swap.pairs.values())
        before, after = (merged(clients.outcomes.get(one, {}) for one in side) for side in sides)
        if reason := jump(before, after):
            self._give_up(swap, reason)
        elif now >= swap.until and (answers(after) >= MIN_ANSWERS or now >= swap.until + MORE_WATCH_S):
            self._keep(swap, now)

    def _keep(self, swap: _Swap, now: float) -> None:
        """Save the choice and end the processes of the model before."""
        try:
            self._control.config = self._choices.applied(self._control.config, swap.choice)
            self._choices.use(swap.choice)
        except ConfigError as error:  # a task was added meanwhile
            self._give_up(swap, str(error))
            return
        except OSError as error:
            log.warning("choice of the model not saved (%s): it is over when the agent ends", error.strerror)
        swap.phase = Phase.ENDING
        self._report("kept", swap, "it answers like the model before")
        self._end([child for child in self._table.of_role(Role.INFER) if child.target in swap.pairs], now)

    def _give_up(self, swap: _Swap, reason: str, request: Request | None = None) -> None:
        """Move the streams back, as far as they have moved. `request` is answered then."""
        state = "refused" if swap.phase is Phase.LOADING else "returned"
        swap.phase, swap.reason = Phase.RETURNING, reason
        if swap.choice is not None and swap.choice not in self._choices.used:
            self._choices.give_up(swap.choice, reason)
        self._report(state, swap, reason)
        if swap.request is not None:
            self._control.reply_error(swap.request, f"{self._choices.describe(swap.choice)} {state}: {reason}")
        swap.request = request

    def _fall_back(self, child: Child, reason: str) -> bool:
        """Use the model before if the chosen one cannot be loaded. Return whether `child` had the chosen one."""
        if child.target in self._falling:
            self._falling.remove(child.target)
            return True
        if (choice := self._choices.current) is None or self._swap is not None:
            return False
        self._choices.give_up(choice, reason)
        self._control.config = self._choices.applied(self._control.config, self._choices.current)
        devices = find_pipeline().devices(self._control.config.model)
        self._router.devices.update(zip(list(self._router.devices), devices, strict=False))
        self._falling = {target for target in self._router.devices if target != child.target}
        self._control.send_event(model_event(self._control.config.name, "returned", reason, str(choice)))
        return True

    def _report(self, state: str, swap: _Swap, reason: str) -> None:
        model = self._choices.describe(swap.choice)
        log.log(
            logging.INFO if state in ("changed", "kept") else logging.ERROR, "model %s %s: %s", model, state, reason
        )
        self._control.send_event(model_event(self._control.config.name, state, reason, model))

    def _answer(self, swap: _Swap, done: str) -> None:
        if swap.request is not None:
            self._control.reply(swap.request, done=done)
            swap.request = None

    def _end(self, children: Iterable[Child], now: float) -> None:
        """End processes for good."""
        for child in list(children):
            self._ending.add(child)
            child.retire("another model is used", now)
            if not child.is_running:
                self._remove(child)

    def _remove(self, child: Child) -> None:
        """Forget a process that has ended, and publish the outcomes of the jobs that it left."""
        self._ending.discard(child)
        self._table.remove(child)
        self._table.unwatch(int(self._router.clients.of(child.target).socket.get(zmq.FD)))
        self._router.remove_process(child.target)
        if child.model is not None:  # without a model it has had no job
            self._publish_lost(child.target, child.model)

    def _publish_lost(self, target: str | None, model: str) -> None:
        config = self._control.config
        for lost in self._router.quarantine.take_lost(target, config.streams):
            lease = self._control.wanted.leases.get(lost.job.due.stream)
            self._control.send_event(result_event(config.name, lost, model, lease=lease))
