"""The handlers of the URLs about web push: subscriptions of browsers, and the links in notifications."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response

from streamer.bus.commands import Feedback, Snooze
from streamer.core.errors import ConfigError, SnapshotError
from streamer.core.reasons import reason_of
from streamer.core.settings import Settings
from streamer.events.notify.push_files import PushFiles, PushKeys, Subscription
from streamer.events.notify.push_links import PushLinks
from streamer.events.schema import IncidentEvent
from streamer.web.json_body import parse_body
from streamer.web.ledger_reader import TooManySearches
from streamer.web.monitor.incident_list import IncidentList
from streamer.web.rule_commands import RuleCommands
from streamer.web.stored_pictures import StoredPictures

SNOOZE_S = 3600.0
"""Duration of a snooze by the button of a notification."""
SENDER = "notification"
BUSY = {"Retry-After": "5"}


class Endpoint(Settings):
    endpoint: str


@dataclass(frozen=True, slots=True)
class PushHandlers:
    """One method per URL, see the table in `make_app`."""

    state: Path
    keys: PushKeys
    links: PushLinks
    incidents: IncidentList
    pictures: StoredPictures
    commands: RuleCommands

    async def key(self) -> JSONResponse:
        """The public key for which a browser subscribes."""
        return JSONResponse({"key": self.keys.public})

    async def subscribe(self, request: Request) -> JSONResponse:
        """Store the subscription of a browser."""
        subscription = await parse_body(request, Subscription)
        try:
            await asyncio.to_thread(PushFiles(self.state).add, subscription)
        except ConfigError as error:
            raise HTTPException(409, str(error)) from None
        except OSError as error:
            raise HTTPException(503, f"the subscription cannot be stored: {reason_of(error, 'push')}") from None
        return JSONResponse({"done": "notifications are on in this browser"})

    async def unsubscribe(self, request: Request) -> JSONResponse:
        """Remove the subscription of a browser."""
        given = await parse_body(request, Endpoint)
        files = PushFiles(self.state)
        for one in await asyncio.to_thread(files.subscriptions):
            if one.endpoint == given.endpoint:
                files.remove(one)
        return JSONResponse({"done": "notifications are off in this browser"})

    async def picture(self, request: Request) -> Response:
        """The best frame of an incident with the object marked."""
        event = self._incident(request)
        try:
            return await self.pictures.response(event.id, True, None)
        except SnapshotError as error:
            raise HTTPException(404, str(error)) from None
        except TooManySearches:
            raise HTTPException(503, "too many pictures at once, try again in a few seconds", BUSY) from None

    async def snooze(self, request: Request) -> JSONResponse:
        """Snooze the rule of an incident on its stream for an hour."""
        data = self._incident(request).data
        return await self.commands.execute(Snooze(by=SENDER, rule=data.rule, stream=data.stream, seconds=SNOOZE_S))

    async def wrong(self, request: Request) -> JSONResponse:
        """Store that an incident is wrong."""
        incident = self._incident(request).data.incident
        return await self.commands.execute(Feedback(by=SENDER, incident=incident, verdict="wrong"))

    def _incident(self, request: Request) -> IncidentEvent:
        link = self.links.read(request.scope["path"], time.time())
        if link is None:
            raise HTTPException(403, "the link of this notification is not valid any more: use the page")
        event = self.incidents.find(link.incident)
        if event is None:
            raise HTTPException(404, "the events of this incident are not kept any more")
        return event
