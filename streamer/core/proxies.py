"""Environment variables of proxies. They are for downloads only; libraries would also reach cameras through them."""

from __future__ import annotations

import os

VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""Lower case; libraries read them in upper case too."""


def forget_proxies() -> None:
    """Remove the variables from the environment of this process, also for libraries in C."""
    for name in [name for name in os.environ if name.lower() in VARIABLES]:
        del os.environ[name]
