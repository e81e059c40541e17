"""CURVE keys of this host and of the hosts that it knows, in files. Keys are written as 64 hexadecimal digits.

    host.keys/secret.key     the secret key of this host; the public key follows from it
    host.keys/peers/NAME     the public key of another host, which may ask for frames here and may be asked

A file that other users could read or change is refused.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.paths import keys_folder
from streamer.core.redact import remember

KEY_BYTES = 32
_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The keys of this host."""

    public: bytes
    secret: bytes = field(repr=False)


class Peers(NamedTuple):
    """The other hosts in the files."""

    keys: dict[str, bytes]
    """Public keys by name."""
    problems: list[ConfigError]
    """Why a file cannot be used, one for each such file."""


class HostKeys:
    """The folder of the keys. Files are read at each call, so that changes apply to the next connection."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises ConfigError for a user without a home and without a `folder`."""
        self.folder = folder or keys_folder()
        self.secret_file = self.folder / "secret.key"

    def create(self, replace: bool = False) -> KeyPair:
        """Make and store a new pair. Raises ConfigError if there is one already, unless `replace`."""
        import zmq
        from zmq.utils import z85

        public, secret = (z85.decode(key) for key in zmq.curve_keypair())
        if not self._write(self.secret_file, secret.hex(), replace):
            raise ConfigError(f"{self.secret_file} exists: `streamer keys rotate` replaces it")
        return KeyPair(public, secret)

    def own(self) -> KeyPair:
        """Return the pair of this host. Raises ConfigError if there is none, or if others may read it."""
        import zmq
        from zmq.utils import z85

        try:
            text = self._read(self.secret_file)
        except FileNotFoundError:
            raise ConfigError(
                f"this host has no key: {self.secret_file} does not exist: run `streamer keys new`"
            ) from None
        secret = _decode(text)
        if secret is None:
            raise ConfigError(f"{self.secret_file} is damaged: make a new key with `streamer keys rotate`")
        remember(text)
        return KeyPair(z85.decode(zmq.curve_public(z85.encode(secret))), secret)

    def peers(self) -> Peers:
        """Return the known hosts. A file that cannot be used concerns its host only. Raises ConfigError."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder / "peers"))
        except FileNotFoundError:
            return Peers({}, [])
        except OSError as error:
            raise _unreadable(self.folder / "peers", error) from None
        found = Peers({}, [])
        for name in filter(_NAME.fullmatch, names):
            try:
                found.keys[name] = self.peer(name)
            except ConfigError as error:
                found.problems.append(error)
        return found

    def peer(self, name: str) -> bytes:
        """Return the public key of a known host. Raises ConfigError if it is unknown."""
        path = self.peer_file(name)
        try:
            key = _decode(self._read(path))
        except FileNotFoundError:
            raise _unknown(name) from None
        if key is None:
            raise ConfigError(f"{path} is damaged: run `streamer keys allow {name} KEY` again")
        return key

    def allow(self, name: str, key: str) -> bool:
        """Store the public key of another host. Return whether it replaces another one. Raises ConfigError."""
        public = _decode(key.strip().lower())
        if public is None:
            raise ConfigError("a public key has 64 hexadecimal digits: `streamer keys show` prints it there")
        known = self.peers().keys
        if public in (other for other_name, other in known.items() if other_name != name):
            raise ConfigError("another name has this key already: `streamer keys show` lists them")
        path = self.peer_file(name)
        replaces = path.exists() and known.get(name) != public
        self._write(path, public.hex())
        return replaces

    def forget(self, name: str) -> None:
        """Delete the public key of a known host, also a damaged one. Raises ConfigError if it is unknown."""
        path = self.peer_file(name)
        try:
            path.unlink()
        except FileNotFoundError:
            raise ConfigError(f"no key of `{name}` is known: `streamer keys show` lists the known ones") from None
        except OSError as error:
            raise ConfigError(f"cannot delete {path}: {error.strerror}") from None

    def peer_file(self, name: str) -> Path:
        """Return the path of the public key of a host. Raises ConfigError for a name that cannot be one."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"`{name[:70]}` is not a name: use a-z, 0-9, - and _")
        return self.folder / "peers" / name

    def _write(self, path: Path, text: str, replace: bool = True) -> bool:
        """Write a private file. Return False if there is one, unless `replace`. Raises ConfigError."""
        try:
            for folder in (self.folder, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self.folder)
            if not replace:
                return atomic_file.create(path, text + "\n")
            mask = os.umask(0o077)
            try:
                atomic_file.write(path, text + "\n")
            finally:
                os.umask(mask)
            return True
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    def _read(self, path: Path) -> str:
        """Return the content of a file. Raises FileNotFoundError if it is missing, ConfigError if it is not private."""
        try:
            _check_private(self.folder)
            _check_private(path)
            return atomic_file.read(path).decode("ascii", "replace").strip()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unreadable(path, error) from None


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"no key of `{name}` is known: run `streamer keys allow {name} KEY`")


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot read {path} ({error.strerror}): give it to the user that runs streamer")


def _decode(text: str) -> bytes | None:
    return bytes.fromhex(text) if _KEY.fullmatch(text) else None


def _check_private(path: Path) -> None:
    """Raise ConfigError unless only this user can use the file or folder. Raises OSError if it does not exist."""
    found = path.lstat()
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to user {found.st_uid}: only files of the user that runs streamer are used")
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = "700" if stat.S_ISDIR(found.st_mode) else "600"
        raise ConfigError(
            f"other users may read or change {path}: run `chmod {mode} {path}`; if one may have read the secret key, "
            "run `streamer keys rotate` too"
        )
