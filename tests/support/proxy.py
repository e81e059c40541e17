"""A real HTTP proxy that forwards requests and opens tunnels (CONNECT)."""

from __future__ import annotations

import base64
import select
import socket
from urllib.parse import urlsplit

from tests.support.tcp_server import TcpServer


class Proxy(TcpServer):
    """A context manager. With `login`, `user:password`, it refuses requests without it."""

    def __init__(self, login: str | None = None) -> None:
        super().__init__()
        self._login = None if login is None else b"Basic " + base64.b64encode(login.encode())
        self.targets: list[str] = []
        """Host and port of each accepted connection."""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(65536)
            if not received:
                return
            head += received
        if self._login is not None and self._login not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        place = target if method == "CONNECT" else urlsplit(target).netloc
        self.targets.append(place)
        host, _, port = place.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), 10) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                server.sendall(head)
            _carry(client, server)


def _carry(one: socket.socket, other: socket.socket) -> None:
    while True:
        for source in select.select([one, other], [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)
