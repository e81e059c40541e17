"""Sends messages to subscribed browsers: encrypted for each one (RFC 8291), signed with the agent's key (RFC 8292).

Endpoints come from browsers, so an endpoint is used only if its host has a public address, or if the config names it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import http_ece
import py_vapid
from cryptography.hazmat.primitives.asymmetric import ec

from streamer.core.addresses import Address, classify, resolve
from streamer.core.errors import AddressError, SinkError, SinkRefused
from streamer.core.logs import RareLog
from streamer.core.redact import Url
from streamer.events.incident_data import Severity
from streamer.events.notify._base import Message
from streamer.events.notify.push_files import PushFiles, PushKeys, Subscription, decode
from streamer.events.notify.push_links import PushLinks
from streamer.events.notify.web_push import WebPush
from streamer.events.sinks._http_client import HttpClient, Response

log = logging.getLogger(__name__)

MAX_PAYLOAD = 3000
"""Bytes of a message before it is encrypted. Push services take 4096 bytes, which hold 3993 of a message."""
MAX_ATTEMPTS = 3
"""Failures of one browser after which its messages wait no longer, while other browsers are reached."""
SIGNED_S = 12 * 3600
"""Seconds for which a push service accepts a signature; at most a day is allowed."""
GONE = frozenset({404, 410})
"""Status codes that say that the subscription has ended."""
AT_ONCE = 8
"""Browsers that are reached at the same time."""
_URGENCY: dict[Severity, str] = {
    "info": "low", "low": "low", "medium": "normal", "high": "high", "critical": "high",
}  # fmt: skip


class PushMessenger:
    """The subscribed browsers. It reads the subscriptions anew for each message."""

    def __init__(self, settings: WebPush, state: Path) -> None:
        """`state`: the state folder of the agent. Raises ConfigError if the keys there cannot be used."""
        self._settings, self._files = settings, PushFiles(state)
        self._keys = self._files.keys()
        self._links = PushLinks(self._keys.link_key)
        self._runner = asyncio.Runner()
        self._message, self._reached = "", set[str]()
        """The message that is being delivered, and the subscriptions that have it."""
        self._failures: Counter[str] = Counter()  # in a row, by subscription
        self._given_up = RareLog(log, "%s not delivered to a browser, push service %s: %s", noun="notification")

    def send(self, message: Message) -> None:
        if message.id != self._message:
            self._message, self._reached = message.id, set()
        waiting = [one for one in self._files.subscriptions() if one.key not in self._reached]
        if not waiting and not self._reached:
            raise SinkRefused("no browser has subscribed: open the page and turn notifications on")
        body = payload(message, self._links, time.time())
        errors = self._runner.run(self._send_all(waiting, body, message))
        self._judge([error for error in errors if error is not None])

    def close(self) -> None:
        self._runner.close()

    async def _send_all(
        self, waiting: Sequence[Subscription], body: bytes, message: Message
    ) -> list[SinkError | SinkRefused | None]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def send(one: Subscription) -> SinkError | SinkRefused | None:
            async with limit:
                try:
                    await self._send(one, body, message)
                except (SinkError, SinkRefused) as error:
                    return self._failed(one, error)
                self._reached.add(one.key)
                self._failures.pop(one.key, None)
                return None

        return await asyncio.gather(*(send(one) for one in waiting))

    async def _send(self, one: Subscription, body: bytes, message: Message) -> None:
        try:
            encrypted = encrypt(body, one)
        except ValueError:
            self._files.remove(one)
            raise SinkRefused("the subscription is not valid and was removed") from None
        client = HttpClient(Url(one.endpoint), self._settings, None, 1, self._settings.timeout, self._look_up)
        try:
            response = await client.post(encrypted, self._headers(one, message))
        finally:
            await client.close()
        self._read(one, response)

    def _headers(self, one: Subscription, message: Message) -> dict[str, str]:
        topic = message.topic if len(message.topic) == 32 else hashlib.sha256(message.topic.encode()).hexdigest()[:32]
        return {
            "authorization": authorization(self._keys, one, self._settings.contact, time.time()),
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(int(self._settings.ttl)),
            "topic": topic,  # replaces an earlier message that the push service still has
            "urgency": "low" if message.silent else _URGENCY[message.severity],
        }

    def _read(self, one: Subscription, response: Response) -> None:
        """Raise SinkError for a message that is to be sent again, SinkRefused for one that is not."""
        status = response.status
        if 200 <= status < 300:
            return
        if status in GONE:
            log.info("subscription of a browser removed: %s says that it has ended", one.host)
            self._files.remove(one)
            raise SinkRefused(f"HTTP {status}: the subscription has ended and was removed")
        if status == 429 or status >= 500:
            raise SinkError(f"HTTP {status}")
        raise SinkRefused(f"HTTP {status}")

    def _failed(self, one: Subscription, error: SinkError | SinkRefused) -> SinkError | SinkRefused:
        self._failures[one.key] += 1
        if isinstance(error, SinkRefused) or self._failures[one.key] >= MAX_ATTEMPTS:
            self._given_up.add(one.host, error)
        return type(error)(f"{one.host}: {error}")

    def _judge(self, errors: Sequence[SinkError | SinkRefused]) -> None:
        """Raise an error if the message is to be sent again, or if no browser has it and none will."""
        again = [error for error in errors if isinstance(error, SinkError)]
        if again and (not self._reached or any(self._failures[key] < MAX_ATTEMPTS for key in self._failing())):
            raise again[0]
        if errors and not self._reached:
            raise errors[0]

    def _failing(self) -> list[str]:
        return [one.key for one in self._files.subscriptions() if one.key not in self._reached]

    def _look_up(self, host: str) -> tuple[Address, ...]:
        if host.lower() in self._settings.hosts:
            return resolve(host, in_config=True)
        usable = tuple(address for address in resolve(host, in_config=False) if classify(address) == "public")
        if not usable:
            raise AddressError(f"{host}: its address is not public: name the host in `hosts` if you trust it")
        return usable


def payload(message: Message, links: PushLinks, now: float) -> bytes:
    """Return the message for the service worker as JSON, short enough for every push service."""
    content: dict[str, Any] = {
        "title": message.title,
        "body": message.body,
        "tag": message.topic,
        "severity": message.severity,
        "silent": message.silent,
    }
    if message.rule is not None:
        content["snooze"] = links.write("snooze", message.topic, now)
        content["wrong"] = links.write("wrong", message.topic, now)
        if message.picture is not None:
            content["picture"] = links.write("picture", message.topic, now)
    while len(body := json.dumps(content, ensure_ascii=False).encode()) > MAX_PAYLOAD:
        longest = max(("title", "body"), key=lambda key: len(content[key]))
        content[longest] = content[longest][: len(content[longest]) * 3 // 4] + "…"
    return body


def encrypt(body: bytes, subscription: Subscription) -> bytes:
    """Return a body that only the browser can read. Raises ValueError if its key is no point of the curve."""
    encrypted: bytes = http_ece.encrypt(
        body,
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=decode(subscription.p256dh),
        auth_secret=decode(subscription.auth),
        version="aes128gcm",
    )
    return encrypted


def authorization(keys: PushKeys, subscription: Subscription, contact: str, now: float) -> str:
    """Return the header by which the push service knows that the agent is the one that the browser subscribed to."""
    claims = {"aud": subscription.origin, "exp": int(now) + SIGNED_S, "sub": contact}
    signed: dict[str, str] = py_vapid.Vapid02.from_raw(keys.private.encode()).sign(claims)
    return signed["Authorization"]
