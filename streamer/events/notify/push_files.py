"""The files of web push in the state folder: the keys of the agent, and the subscriptions of browsers.

The web process adds subscriptions, the one that sends removes them: each has a file of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of
from streamer.core.settings import Settings

FOLDER, KEY_FILE = "push", "keys.json"
MAX_SUBSCRIPTIONS = 64
"""Browsers that may subscribe; a further one is refused."""
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)
_SUBSCRIPTION_FILE = re.compile(r"[0-9a-f]{32}\.json")


_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of the curve P-256: private keys are smaller."""


class PushKeys(Settings):
    """The key pair by which push services know the agent (VAPID), as URL-safe base64."""

    private: str = Field(repr=False)
    """32 bytes."""
    public: str
    """65 bytes: a point of the curve P-256."""

    @field_validator("private")
    @classmethod
    def _is_private_key(cls, text: str) -> str:
        key = decode(text)
        if len(key) != 32 or not 0 < int.from_bytes(key) < _ORDER:
            raise ValueError("must be a private key of the curve P-256")
        return text

    @field_validator("public")
    @classmethod
    def _is_public_key(cls, text: str) -> str:
        return _checked_point(text)

    @property
    def link_key(self) -> bytes:
        """Return the key that signs the links of notifications."""
        return hmac.digest(self.private.encode(), b"streamer push links", hashlib.sha256)


class Subscription(Settings):
    """A browser that wants notifications. Its endpoint is a secret: whoever knows it can send to the browser."""

    endpoint: str = Field(max_length=2048, repr=False)
    p256dh: str = Field(max_length=200, repr=False)
    """Public key of the browser."""
    auth: str = Field(max_length=100, repr=False)
    """Secret that the browser shares with its senders."""

    @field_validator("endpoint")
    @classmethod
    def _is_web_address(cls, endpoint: str) -> str:
        with suppress(ValueError):
            parts = urlsplit(endpoint)
            if (
                endpoint.isascii()
                and endpoint.isprintable()
                and " " not in endpoint
                and parts.scheme == "https"
                and parts.username is None
                and _HOST.fullmatch(parts.hostname or "")
                and (parts.port is None or parts.port > 0)
            ):
                return endpoint
        raise ValueError("must be an https:// address of a push service")

    @field_validator("p256dh")
    @classmethod
    def _is_point(cls, text: str) -> str:
        return _checked_point(text)

    @field_validator("auth")
    @classmethod
    def _is_secret(cls, text: str) -> str:
        if len(decode(text)) != 16:
            raise ValueError("must be 16 bytes")
        return text

    @property
    def key(self) -> str:
        """Return the name of its file, which does not reveal the endpoint."""
        return hashlib.sha256(self.endpoint.encode()).hexdigest()[:32]

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).hostname or ""

    @property
    def origin(self) -> str:
        parts = urlsplit(self.endpoint)
        return f"https://{parts.netloc}"


class PushFiles:
    """The keys and subscriptions of an agent."""

    def __init__(self, state: Path) -> None:
        """`state`: the state folder of the agent."""
        self._folder = state / FOLDER

    def keys(self) -> PushKeys:
        """Return the keys, which are made at the first use. Raises ConfigError if the file cannot be used."""
        path = self._folder / KEY_FILE
        try:
            with suppress(FileNotFoundError):
                return PushKeys.model_validate_json(atomic_file.read(path))
            self._folder.mkdir(mode=0o700, exist_ok=True)
            atomic_file.create(path, _new_keys().model_dump_json())
            return PushKeys.model_validate_json(atomic_file.read(path))
        except OSError as error:
            raise ConfigError(f"the keys of web push in {path} cannot be used: {reason_of(error, 'push')}") from None
        except ValidationError:
            raise ConfigError(
                f"{path} is damaged: delete it, and turn notifications on again in each browser"
            ) from None

    def subscriptions(self) -> list[Subscription]:
        """Return the subscriptions, the oldest first. Files that this version cannot read are passed over."""
        found = []
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _SUBSCRIPTION_FILE.fullmatch(entry.name):
                    with suppress(OSError, ValidationError):
                        one = Subscription.model_validate_json(atomic_file.read(Path(entry.path)))
                        found.append((entry.stat().st_mtime, one))
        return [one for _, one in sorted(found, key=lambda pair: pair[0])]

    def add(self, subscription: Subscription) -> None:
        """Store a subscription. Raises ConfigError if there are too many, OSError if it cannot be stored."""
        others = [one for one in self.subscriptions() if one.key != subscription.key]
        if len(others) >= MAX_SUBSCRIPTIONS:
            raise ConfigError(f"{MAX_SUBSCRIPTIONS} browsers have subscribed already: turn one of them off first")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        atomic_file.write(self._path(subscription), subscription.model_dump_json())
        self._path(subscription).chmod(0o600)

    def remove(self, subscription: Subscription) -> None:
        with suppress(OSError):
            self._path(subscription).unlink()

    def _path(self, subscription: Subscription) -> Path:
        return self._folder / f"{subscription.key}.json"


def decode(text: str) -> bytes:
    """Return the bytes of URL-safe base64 with or without padding. Raises ValueError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("must be URL-safe base64") from None


def _checked_point(text: str) -> str:
    if len(point := decode(text)) != 65 or point[0] != 4:
        raise ValueError("must be a point of the curve P-256")
    return text


def encode(data: bytes) -> str:
    """Return URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _new_keys() -> PushKeys:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = ec.generate_private_key(ec.SECP256R1())
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return PushKeys(private=encode(private.private_numbers().private_value.to_bytes(32)), public=encode(point))
