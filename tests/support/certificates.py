"""Certificates for tests, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    cert: Path
    key: Path


class Authority:
    """A certificate authority of its own, with its files in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._openssl(
            f"req -x509 {_NEW_KEY} -keyout {self._key} -out {self.cert} -days 2 -subj /CN={name}"
            " -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign"
        )

    def issue(self, name: str, hosts: str = "IP:127.0.0.1,DNS:localhost", days: int = 2) -> Certificate:
        """Return a certificate for servers on this host and for clients called `name`.

        With a negative number of `days` it has expired.
        """
        cert, key, request = (self._folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={hosts}\n")
        self._openssl(f"req {_NEW_KEY} -keyout {key} -out {request} -subj /CN={name}")
        self._openssl(
            f"x509 -req -in {request} -CA {self.cert} -CAkey {self._key} -CAcreateserial -out {cert} -days {days}"
            f" -extfile {extensions}"
        )
        return Certificate(cert, key)

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self._folder, check=True, capture_output=True)


_NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
