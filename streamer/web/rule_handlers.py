"""The handlers of the URLs about rules and incidents."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import HTTPException, Query
from fastapi.responses import JSONResponse

from streamer.config.model import Config
from streamer.config.rule import Answering
from streamer.events.part import unix_time
from streamer.events.schema import IncidentEvent
from streamer.events.verdicts import Judgement, Precision, VerdictFile, precision
from streamer.web.monitor.incident_list import KEPT, IncidentList
from streamer.web.rule_commands import RuleCommands

Text = Annotated[str | None, Query(max_length=200)]


@dataclass(frozen=True, slots=True)
class RuleHandlers:
    """One method per URL, see the table in `make_app`. The fields are everything that they read."""

    config: Config
    answering: Mapping[str, Answering]
    """Streams and tasks of each rule."""
    hashes: Mapping[str, Collection[str]]
    """Hashes of each rule's definition on its streams."""
    incidents: IncidentList
    verdicts: VerdictFile
    commands: RuleCommands

    async def list_incidents(
        self,
        stream: Text = None,
        rule: Text = None,
        state: Annotated[str | None, Query(pattern="^(open|over)$")] = None,
        limit: Annotated[int, Query(ge=1, le=KEPT)] = 100,
    ) -> JSONResponse:
        """The newest incidents and all open ones, newest first."""
        if stream and stream not in self.config.streams:
            raise HTTPException(404, f"unknown stream {stream!r}; there are: {', '.join(self.config.streams)}")
        found = [
            one
            for one in self.incidents.newest_first()
            if one.data.stream in self.config.streams
            and (not stream or one.data.stream == stream)
            and (not rule or one.data.rule == rule)
            and (state is None or (one.data.state != "end") == (state == "open"))
        ]
        judgements = self.verdicts.judgements()
        kept = [one for number, one in enumerate(found) if number < limit or one.data.state != "end"]
        shown = [_incident(one, judgements.get(one.data.incident)) for one in kept]
        return JSONResponse({"complete": self.incidents.position is not None, "count": len(found), "incidents": shown})

    async def list_rules(self) -> JSONResponse:
        """The rules of the config with their state, the mode and the running snoozes."""
        known = await self.commands.scrape() if self.config.rules else None
        shared = {"modes": list(self.config.modes)} | {key: known and known[key] for key in ("mode", "snoozes")}
        mode = None if known is None else known["mode"]
        incidents, judgements = defaultdict[str, list[IncidentEvent]](list), defaultdict[str, list[Judgement]](list)
        for event in self.incidents.newest_first():
            incidents[event.data.rule].append(event)
        for judgement in self.verdicts.judgements().values():
            judgements[judgement.rule].append(judgement)
        rules = [self._rule(name, mode, incidents[name], judgements[name]) for name in self.config.rules]
        return JSONResponse({**shared, "rules": rules})

    def _rule(
        self, name: str, mode: str | None, found: Sequence[IncidentEvent], judgements: Sequence[Judgement]
    ) -> dict[str, Any]:
        """`found`: its incidents, the newest first; `judgements`: those of its incidents."""
        rule = self.config.rules[name]
        judged = [precision(judgements, name, of) for of in (self.hashes[name], None)]
        return {
            "name": name,
            "condition": str(rule.when),
            "severity": rule.severity,
            "modes": rule.modes,
            "armed": True if rule.modes is None else mode and mode in rule.modes,
            "between": None if rule.between is None else rule.between.text,
            "streams": sorted(self.answering[name].tasks),
            "open": sum(one.data.state != "end" for one in found),
            "last": found[0].data.started if found else None,
            "precision": _precision(judged[0]),
            "precision_ever": _precision(judged[1]),
        }


def _precision(found: Precision) -> dict[str, Any]:
    return {"right": found.right, "wrong": found.wrong, "share": found.share}


def _incident(event: IncidentEvent, judgement: Judgement | None) -> dict[str, Any]:
    """Return an incident as its newest event describes it; the seconds of an open one count until now."""
    data = event.data.model_dump(mode="json", exclude={"evidence", "number", "state"})
    is_open = event.data.state != "end"
    seconds = max(0.0, time.time() - unix_time(event.data.started)) if is_open else event.data.seconds
    data["event"] = event.id
    return {**data, "seconds": round(seconds, 3), "open": is_open, "verdict": judgement and judgement.verdict}
