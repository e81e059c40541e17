"""nginx and Caddy in front of a web process, with all their files in a folder of the test."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.agents import until
from tests.support.ports import free_port

HOST = "cameras.example"
"""Host name of the examples in the documents."""


@contextmanager
def nginx(folder: Path, servers: str, port: int) -> Iterator[None]:
    """Run nginx with these `server` blocks; everything else is the shortest usual config."""
    user = "user root;" if os.geteuid() == 0 else ""
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in names)
    (folder / "nginx.conf").write_text(
        f"{user} pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off;\n{temporary}{servers}\n}}\n"
    )
    with _running(["nginx", "-p", str(folder), "-c", "nginx.conf", "-g", "daemon off;"], folder, port, {}):
        yield


@contextmanager
def caddy(folder: Path, sites: str, port: int) -> Iterator[None]:
    """Run Caddy with these sites on a port of its own, with a certificate that it signs itself."""
    options = f"admin off\nlocal_certs\nskip_install_trust\nhttps_port {port}\nhttp_port {free_port()}\n"
    (folder / "Caddyfile").write_text(f"{{\n{options}}}\n{sites}\n")
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    with _running(command, folder, port, environment):
        until(lambda: _speaks_tls(port), 60, "caddy has signed its certificate")  # after it listens
        yield


def _speaks_tls(port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 60) as one,
            context.wrap_socket(one, server_hostname=HOST),
        ):
            return True
    except OSError:
        return False


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a new self-signed certificate for HOST and its key."""
    pem, key = folder / "cert.pem", folder / "cert.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    return pem, key


@contextmanager
def _running(command: Sequence[str], folder: Path, port: int, environment: Mapping[str, str]) -> Iterator[None]:
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, f"{command[0]} is not installed: make system-packages"
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *command[1:]], cwd=folder, env={**os.environ, **environment},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, (folder / "proxy.log").read_text()
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers, 15, f"{command[0]} answers")
        yield
    finally:
        process.terminate()
        process.wait(60)
