"""The trial of OpenVINO in a process of its own, so that a crash or an endless loop in it ends no process of the agent.

Each combination of checkpoint, versions, processor, device and number type is tried once. The verdict is a small file
beside the converted models.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.openvino.instructions import instructions
from pipelines.florence2.openvino.library import openvino
from streamer.core import atomic_file

log = logging.getLogger(__name__)

LIMIT_S = 200.0
"""Longest trial. Florence-2 base takes about 15 s on two cores. The parent of the inference process, which gets a
heartbeat before and after, waits 300 s."""
COMMAND = sys.executable, "-X", "faulthandler", "-m", "pipelines.florence2.openvino.trial_process"
_FAULTS = (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)
"""Signals of a crash. Others come from outside: the service is stopped, or memory is short."""
_LAST_OUTPUT = 3000
"""Characters of a failed trial's output in the log."""


class Verdict(NamedTuple):
    """The result of a trial."""

    refusal: str | None
    """Why OpenVINO must not be used; None: it ran."""


class Trial:
    """The trial of a model on a device in a number type, on this processor."""

    def __init__(self, beside: Path, device: str, dtype: str) -> None:
        """`beside`: a path whose name stands for the content of the model; the verdict is stored beside it."""
        self._device, self._dtype = device, dtype
        key = "\n".join([openvino().__version__, device, dtype, instructions()])
        self.file = beside.with_name(f"{beside.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json")

    def verdict(self) -> Verdict | None:
        """Return the verdict of an earlier trial, None if there is none."""
        try:
            return Verdict(json.loads(atomic_file.read(self.file))["refusal"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            log.warning("OpenVINO: %s is damaged: the model is tried again", self.file)
            return None

    def refusal(
        self, files: CheckpointFiles, models: Mapping[str, Path] | None = None, again: bool = False
    ) -> str | None:
        """Return why OpenVINO must not run a model, None if it may. Tries what was never tried.

        `models`: its files by name; None: the checkpoint's converted models, which the trial makes if necessary.
        `again`: try also what passed. A refusal is kept, unless its reason may pass.
        """
        known = self.verdict()
        if known is not None and known.refusal is not None:
            return f"{known.refusal}; delete {self.file} to try again"
        return None if known is not None and not again else self._run(files, models)

    def _run(self, files: CheckpointFiles, models: Mapping[str, Path] | None) -> str | None:
        wanted = {
            "checkpoint": str(files.adapter or files.path),
            "height": files.images.height,
            "models": {name: str(path) for name, path in (models or {}).items()},
            "device": self._device,
            "dtype": self._dtype,
        }
        work = "trying" if models else "converting and trying"
        log.info("OpenVINO: %s %s in %s, once, in a process of its own", work, files.name, self._dtype)
        started = time.monotonic()
        try:
            done = subprocess.run(
                COMMAND, input=json.dumps(wanted), capture_output=True, text=True, errors="replace", timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return self._keep(f"its trial did not end within {LIMIT_S:g} s")
        except OSError as error:
            return f"its trial cannot be started: {error.strerror}"
        if done.returncode == 0:
            log.info("OpenVINO: tried in %.1f s, later starts do without", time.monotonic() - started)
            return self._keep(None)
        log.warning("OpenVINO: output of the failed trial:\n%s", done.stderr[-_LAST_OUTPUT:].strip())
        if done.returncode > 0:
            words = done.stdout.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            return f"its trial failed, {words[0]}"
        number = signal.Signals(-done.returncode)
        if number in _FAULTS:
            return self._keep(f"its trial crashed ({number.name})")
        return f"its trial was ended by {number.name}"

    def _keep(self, refusal: str | None) -> str | None:
        try:
            atomic_file.write(self.file, json.dumps({"refusal": refusal}) + "\n")
        except OSError as error:
            log.warning("OpenVINO: %s not written, the next start tries again: %s", self.file, error.strerror)
        return refusal
