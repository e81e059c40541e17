"""Landlock: the kernel restricts a process to named files and TCP ports, see landlock(7). No privilege is needed.

Three system calls, with the same numbers on every architecture. Each version of Landlock knows more rights than the one
before; a right that the kernel does not know stays allowed. Sockets in the file system and UDP are not restricted.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_CONNECT_TCP, _BIND_TCP = 1 << 1, 1 << 0
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1
_PR_SET_NO_NEW_PRIVS = 38
NET_VERSION, SCOPE_VERSION = 4, 6
"""First versions that restrict TCP, and abstract sockets and signals."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Right(IntFlag):
    """Rights on files, LANDLOCK_ACCESS_FS_* of the kernel."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Right.READ_FILE | Right.READ_DIR
WRITE = READ | Right.WRITE_FILE | Right.TRUNCATE | Right.REMOVE_FILE | Right.MAKE_REG | Right.MAKE_SOCK | Right.MAKE_DIR
DEVICE = READ | Right.WRITE_FILE | Right.IOCTL_DEV
_OF_FILES = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
"""Rights that a rule for anything but a folder may hold."""
_SINCE = {2: Right.REFER, 3: Right.TRUNCATE, 5: Right.IOCTL_DEV}
"""Rights by the version that introduced them; the others exist since version 1."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a restricted process may use. Paths that do not exist are left out."""

    read: Iterable[Path] = ()
    """Files, and folders with all in them, to read."""
    write: Iterable[Path] = ()
    """Folders to read, write, create and remove files and sockets in."""
    devices: Iterable[Path] = ()
    """Devices, and folders of devices, to read, write and control."""
    connect: Iterable[int] | None = ()
    """TCP ports to connect to, of any host. None: all ports."""
    serve: Iterable[int] = ()
    """TCP ports to listen on and to connect to. Not used if `connect` is None."""


def version() -> int:
    """Return the version of Landlock in this kernel, 0 without it (before Linux 5.13, or not enabled)."""
    try:
        return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(rules: Rules) -> None:
    """Restrict the calling thread, and the threads and processes that it starts later, for good.

    It can run no program, send signals to no process outside and gain no privilege. Does nothing in a kernel without
    Landlock. Raises OSError.
    """
    supported = version()
    if not supported:
        return
    files = _rights(supported)
    ports = rules.connect if supported >= NET_VERSION else None
    net = 0 if ports is None else _CONNECT_TCP | _BIND_TCP
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if supported >= SCOPE_VERSION else 0
    handled = struct.pack("=QQQ", files, net, scopes)
    ruleset = _call(_CREATE_RULESET, handled, len(handled), 0)
    try:
        for paths, access in ((rules.read, READ), (rules.write, WRITE), (rules.devices, DEVICE)):
            for path in paths:
                _allow(ruleset, path, access & files)
        if ports is not None:
            for right, numbers in ((_CONNECT_TCP, ports), (_CONNECT_TCP | _BIND_TCP, rules.serve)):
                for port in numbers:
                    _call(_ADD_RULE, ruleset, _NET_PORT, struct.pack("=QQ", right, port), 0)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise _last_error()
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _rights(supported: int) -> Right:
    """Return the rights that this version of Landlock knows."""
    unknown = Right(sum(right for since, right in _SINCE.items() if since > supported))
    return Right(sum(Right)) & ~unknown


def _allow(ruleset: int, path: Path, right: Right) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it does not exist, or may not be used anyway
    try:
        rights = right if path.is_dir() else right & _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call and return its result. Raises OSError."""
    result: int = _libc.syscall(
        ctypes.c_long(number), *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    )
    if result < 0:
        raise _last_error()
    return result


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
