"""One connection to an RTSP server while it sends media."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from pathlib import Path

from streamer.core.deadline import Deadline
from streamer.core.rtsp.client import Answer, RtspClient, Server
from streamer.core.tls import Tls
from tests.support.certificates import Authority

PACKET = b"$\x00\x00\x08" + b"12345678"


def test_rest_of_a_tls_record_is_not_waited_for(tmp_path: Path) -> None:
    certificate = Authority(tmp_path).issue("camera")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    begin, resume = threading.Event(), threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_side=True)
            is_shaken = False
            while not is_shaken:
                try:
                    tls.do_handshake()
                    is_shaken = True
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65_536))
            connection.sendall(outgoing.read())
            begin.wait(60)
            tls.write(PACKET)
            record = outgoing.read()
            connection.sendall(record[:10])
            resume.wait(60)
            connection.sendall(record[10:])
            connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        server = Server("rtsps", "127.0.0.1", listener.getsockname()[1], "/")
        with RtspClient(server, None, Tls(verify=False), Deadline(60)) as client:
            client.begin_media()
            begin.set()
            assert select.select([client.socket], [], [], 60)[0]
            assert client.receive() == []
            resume.set()
            received: list[bytes | Answer] = []
            while not received:
                assert select.select([client.socket], [], [], 60)[0]
                received += client.receive() or [b"the end"]
            assert received == [PACKET]
        thread.join(60)
