"""The URLs that command the rules. Each takes a JSON object, and answers once the command is stored and in effect."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from streamer.bus.commands import Acknowledge, Feedback, RulesChange, RulesCommand, ShowRules, Snooze, SwitchMode
from streamer.bus.rules_client import REPLY_S, command_rules
from streamer.core.errors import ConfigError, NoReply
from streamer.core.redact import redact
from streamer.core.settings import Seconds, Settings
from streamer.events.command_data import Verdict
from streamer.web.auth import access_of
from streamer.web.json_body import parse_body

SCRAPE_S = 1.0
"""Time for the rules process to answer where its state is a part of the answer, as in the metrics."""


class _Mode(Settings):
    mode: str = Field(max_length=64)


class _Snooze(Settings):
    rule: str | None = Field(None, max_length=64)
    stream: str | None = Field(None, max_length=64)
    for_: Seconds | None = Field(None, alias="for")
    off: bool = False

    @model_validator(mode="after")
    def _has_one_end(self) -> Self:
        if (self.for_ is None) != self.off:
            raise ValueError("give either `for`, such as 1h, or `off: true`")
        return self


class _Incident(Settings):
    incident: str = Field(max_length=64)


class _Judgement(_Incident):
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class RuleCommands:
    """One method per URL, see the table in `make_app`."""

    runtime: Path

    async def state(self) -> JSONResponse:
        """Mode, snoozes, rules and open incidents, as the rules process knows them."""
        return JSONResponse(await self._send(ShowRules()))

    async def switch_mode(self, request: Request) -> JSONResponse:
        given = await parse_body(request, _Mode)
        return await self.execute(SwitchMode(by=access_of(request.scope).name, mode=given.mode))

    async def snooze(self, request: Request) -> JSONResponse:
        given = await parse_body(request, _Snooze)
        by = access_of(request.scope).name
        return await self.execute(Snooze(by=by, rule=given.rule, stream=given.stream, seconds=given.for_))

    async def acknowledge(self, request: Request) -> JSONResponse:
        given = await parse_body(request, _Incident)
        return await self.execute(Acknowledge(by=access_of(request.scope).name, incident=given.incident))

    async def judge(self, request: Request) -> JSONResponse:
        given = await parse_body(request, _Judgement)
        by = access_of(request.scope).name
        return await self.execute(Feedback(by=by, incident=given.incident, verdict=given.verdict))

    async def scrape(self) -> dict[str, Any] | None:
        """Return the state, or None if the rules process does not answer soon."""
        try:
            return await asyncio.to_thread(command_rules, self.runtime, ShowRules(), SCRAPE_S)
        except (ConfigError, NoReply):
            return None

    async def execute(self, command: RulesChange) -> JSONResponse:
        """Return the effect of a command in words, once it is stored."""
        return JSONResponse({"done": (await self._send(command))["done"]})

    async def _send(self, command: RulesCommand) -> dict[str, Any]:
        try:
            answer = await asyncio.to_thread(command_rules, self.runtime, command, REPLY_S)
        except ConfigError as error:
            raise HTTPException(400, redact(str(error))) from None
        except NoReply as error:
            raise HTTPException(503, redact(str(error)), {"Retry-After": "5"}) from None
        return {key: value for key, value in answer.items() if key != "id"}
