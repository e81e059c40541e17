"""Reasons that users get when a server cannot be reached or refuses: one text for each cause.

No text contains an address, nor any byte that a server sent.
"""

from __future__ import annotations

import errno
import socket
import ssl

from streamer.core.errors import SourceLost, SourceRefused
from streamer.core.tls import describe_tls_error

NEEDS_USER = "needs a user and password (401)"
REFUSED_USER = "refused the user or password"
BROKEN_OFF = "the connection broke off"

_OS_ERRORS = {
    errno.ECONNREFUSED: "connection refused: nothing listens there",
    errno.EHOSTUNREACH: "host unreachable: it is off, or there is no route to it",
    errno.EHOSTDOWN: "host unreachable: it is off, or there is no route to it",
    errno.ENETUNREACH: "network unreachable: this computer has no route to the address",
    errno.ENETDOWN: "network unreachable: the network of this computer is down",
    errno.EADDRNOTAVAIL: "network unreachable: this computer has no route to the address",
    errno.ETIMEDOUT: "the connection timed out",
    errno.ECONNRESET: BROKEN_OFF,
    errno.ECONNABORTED: BROKEN_OFF,
    errno.EPIPE: BROKEN_OFF,
    errno.EIO: BROKEN_OFF,
    errno.EACCES: "connection not permitted: a firewall or a sandbox of this computer blocks it",
    errno.EPERM: "connection not permitted: a firewall or a sandbox of this computer blocks it",
    errno.EMFILE: "no connection: this process has no file descriptors left",
    errno.ENFILE: "no connection: this computer has no file descriptors left",
    errno.ENOBUFS: "no connection: this computer has no memory left for it",
    errno.ENOMEM: "no connection: this computer has no memory left for it",
}
_NAME_ERRORS = {
    socket.EAI_AGAIN: "host name lookup failed: no DNS server answers",
    socket.EAI_FAIL: "host name lookup failed: the DNS server reports an error",
    socket.EAI_NONAME: "host name unknown: check its spelling",
    socket.EAI_NODATA: "host name without an address: check its spelling",
}
_STATUSES = {
    400: "refused the request as malformed (400)",
    403: "forbids access (403): the user may not see this stream, or the address of this computer is blocked",
    404: "knows no such path (404): check the path of the URL",
    406: "offers no format that streamer can read (406)",
    407: "needs a user and password for a proxy (407)",
    429: "got too many requests (429)",
    453: "has no bandwidth left (453): too many viewers",
    454: "closed the session (454)",
    461: "does not support this transport (461): set `transport` to `udp` or `tcp`",
    503: "is overloaded (503): the limit of its sessions may be reached",
    504: "got no answer from the server behind it (504)",
    505: "does not support this version of the protocol (505)",
}


def describe_os_error(error: OSError) -> str:
    """Return why a connection could not be made or has ended, also for errors of TLS and of the host name lookup."""
    if isinstance(error, ssl.SSLError):
        return describe_tls_error(error)
    if isinstance(error, socket.gaierror):
        return _NAME_ERRORS.get(error.errno or 0, f"host name lookup failed (error {error.errno})")
    if isinstance(error, TimeoutError) and error.errno is None:
        return _OS_ERRORS[errno.ETIMEDOUT]
    number = error.errno or 0
    return _OS_ERRORS.get(number) or f"the connection failed ({errno.errorcode.get(number, 'unknown error')})"


def describe_status(status: int, has_user: bool) -> str:
    """Return the meaning of an error status of HTTP or RTSP. `has_user`: the request carried a user and password."""
    if status == 401:
        return REFUSED_USER if has_user else NEEDS_USER
    if status in _STATUSES:
        return _STATUSES[status]
    if 300 <= status < 400:
        return f"redirects to another address ({status})"
    return f"failed ({status})" if 500 <= status < 600 else f"refused the request ({status})"


def status_failure(status: int, has_user: bool) -> SourceLost:
    """Return the error of a camera that answered with an error status."""
    kind = SourceRefused if status in (401, 403) else SourceLost
    return kind(describe_status(status, has_user))
