"""Runs pytest, and tests that fail once more, one after another: `python -m tests.support.once_more [arguments]`.

Two tests of whole agents at a time share the processor, and a busy computer can stop one of their processes for
seconds. A test that fails for that reason passes alone. The failures of the first run stay in its output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAILED = Path(".pytest_cache/v/cache/lastfailed")
MOST = 3
"""More failed tests have another reason."""


def run(*arguments: str) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", *arguments])


def main() -> int:
    code = run("--cache-clear", *sys.argv[1:])
    if code != pytest.ExitCode.TESTS_FAILED:
        return code
    failed = list(json.loads(FAILED.read_text()))
    if len(failed) > MOST:
        return code
    print("running once more, alone:", *failed, sep="\n  ", flush=True)
    if (code := run(*failed)) == pytest.ExitCode.OK:
        print("UNSTABLE, failed once and passed alone:", *failed, sep="\n  ", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
