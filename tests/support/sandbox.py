"""`sandbox.py UNIT COMMAND…` runs a command under the system call filter of a systemd unit.

`systemd-analyze syscall-filter` lists the call groups, and libseccomp builds the filter, as in systemd.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from pathlib import Path

_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1
_NO_SUCH_CALL = -1
_PR_SET_NO_NEW_PRIVS = 38


@functools.cache
def calls_of(group: str) -> set[str]:
    """Return the system calls of a group such as `@system-service`, including its nested groups."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    found: set[str] = set()
    for word in (line.strip() for line in listed.stdout.splitlines()[1:]):
        if word.startswith("@"):
            found |= calls_of(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def allowed_by(unit: Path) -> set[str]:
    """Return the system calls that a unit with an allow-list permits."""
    allowed = calls_of("@default")
    for line in unit.read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "SystemCallFilter":
            calls = set().union(
                *(calls_of(word) if word.startswith("@") else {word} for word in value.strip("~").split())
            )
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def confine(allowed: set[str]) -> None:
    """Make all other system calls fail with EPERM, in this process and its children."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_EPERM)))
    for name in allowed:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number != _NO_SUCH_CALL:
            seccomp.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if seccomp.seccomp_load(context) != 0:
        raise SystemExit("the filter could not be loaded")


if __name__ == "__main__":
    confine(allowed_by(Path(sys.argv[1])))
    os.execv(sys.argv[2], sys.argv[2:])
