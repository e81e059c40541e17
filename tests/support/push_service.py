"""A push service and a subscribed browser in one: an HTTPS server that decrypts what it receives."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from streamer.events.notify.push_files import Subscription, encode
from tests.support.certificates import Authority


@dataclass
class PushService:
    """The messages that have arrived, and the status of each answer."""

    ca: Path
    port: int = 0
    status: dict[str, int] = field(default_factory=dict)
    """Status codes of the answers by browser; 201 for others."""
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Browser and decrypted message of each accepted request."""
    headers: list[dict[str, str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of the encrypted bodies."""
    secret: bytes = b"0123456789abcdef"
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def subscription(self, browser: str = "phone") -> Subscription:
        point = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        endpoint = f"https://localhost:{self.port}/{browser}"
        return Subscription(endpoint=endpoint, p256dh=encode(point), auth=encode(self.secret))

    def accept(self, browser: str, headers: dict[str, str], body: bytes) -> int:
        status = self.status.get(browser, 201)
        if status == 201:
            plain = http_ece.decrypt(body, private_key=self.private, auth_secret=self.secret, version="aes128gcm")
            self.messages.append((browser, json.loads(plain)))
            self.headers.append(headers)
            self.sizes.append(len(body))
        return status


@contextmanager
def push_service(folder: Path) -> Iterator[PushService]:
    """Run the server with a certificate of its own authority."""
    authority = Authority(folder)
    certificate = authority.issue("push")
    service = PushService(authority.cert)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(service.accept(self.path.strip("/"), headers, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    service.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def claims(authorization: str) -> dict[str, Any]:
    """Return the claims of a VAPID header."""
    part = authorization.partition("t=")[2].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
