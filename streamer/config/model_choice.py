"""Models that replaced the config's model while the agent ran; the last one is used again at each start.

The file beside the ledger holds the choices. The user's config is never written. If it names another checkpoint than
when the choices were made, these are over.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from streamer.config.model import Config, from_checked
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.model_name import model_name

log = logging.getLogger(__name__)

FILE = "models.json"
KEPT = 20
"""Choices, and models that were given up, that are kept."""


class Choice(BaseModel):
    """A checkpoint that was chosen."""

    model_config = ConfigDict(frozen=True)

    checkpoint: str
    """Absolute path of a folder, or a name on the hub."""
    name: str
    hash: str
    at: float
    """Unix second."""

    def __str__(self) -> str:
        return model_name(self.name, self.hash)


class GivenUp(Choice):
    """A checkpoint that was chosen and did not stay."""

    reason: str


class _File(BaseModel):
    checkpoint: str | None = None
    """Checkpoint of the config."""
    used: list[Choice] = []
    """Oldest first."""
    given_up: list[GivenUp] = []
    """Oldest first."""


class ModelChoices:
    """The choices of an agent: `used[-1]` runs, without one the model of the config does."""

    def __init__(self, state: Path, config: Config) -> None:
        """`state`: the agent's state folder. `config`: as the user wrote it."""
        self._path = state / FILE
        self._model: Any = config.raw.get("model")
        self.checkpoint: str | None = (self._model or {}).get("checkpoint")
        """Checkpoint of the config."""
        saved = self._load()
        if saved.used and saved.checkpoint != self.checkpoint:
            log.warning("the config names another checkpoint than before: chosen model %s not used", saved.used[-1])
            saved.used = []
        self.used, self.given_up = saved.used, saved.given_up

    @property
    def current(self) -> Choice | None:
        """The chosen model; None: that of the config."""
        return self.used[-1] if self.used else None

    @property
    def before(self) -> Choice | None:
        """The model that ran before the chosen one; None: that of the config."""
        return self.used[-2] if len(self.used) > 1 else None

    def describe(self, choice: Choice | None) -> str:
        return f"the config's model ({self.checkpoint or 'the shipped one'})" if choice is None else str(choice)

    def overview(self) -> dict[str, Any]:
        """Return the checkpoint of the config, the choices and the models that did not stay, for JSON."""
        used, given_up = ([one.model_dump() for one in part] for part in (self.used, self.given_up))
        return {"config": self.checkpoint, "used": used, "given_up": given_up}

    def applied(self, config: Config, choice: Choice | None) -> Config:
        """Return the config with a chosen model, or with its own again. Raises ConfigError if a task cannot run."""
        model = self._model
        if choice is not None:
            model = {**(model or {}), "checkpoint": choice.checkpoint, "hash": choice.hash}
        raw = {key: value for key, value in config.raw.items() if key != "model"}
        return from_checked(raw if model is None else {**raw, "model": model}, config.is_part)

    def at_start(self, config: Config) -> Config:
        """Return the config with the present choice. One that does not fit is given up with a warning."""
        if (choice := self.current) is None:
            return config
        try:
            config = self.applied(config, choice)
        except ConfigError as error:
            log.warning("chosen model %s does not fit the config: %s", choice, error)
            self.give_up(choice, str(error))
        else:
            log.info("model %s used, as chosen with `streamer model use`", choice)
        return config

    def use(self, choice: Choice | None) -> None:
        """Make a model the present one. The one that was used before it: go back to that. Raises OSError."""
        if self.used and choice == self.before:
            self.used = self.used[:-1]
        else:
            self.used = [*self.used, *([] if choice is None else [choice])][-KEPT:]
        self._save()

    def give_up(self, choice: Choice, reason: str) -> None:
        """Record that a model did not stay, and forget it as the present one."""
        self.used = [one for one in self.used if one != choice]
        self.given_up = [*self.given_up, GivenUp(**{**choice.model_dump(), "at": time.time()}, reason=reason)][-KEPT:]
        try:
            self._save()
        except OSError as error:
            log.warning("%s not written: %s", self._path, error.strerror)

    def _save(self) -> None:
        content = _File(checkpoint=self.checkpoint, used=self.used, given_up=self.given_up)
        atomic_file.write(self._path, content.model_dump_json(indent=1) + "\n")

    def _load(self) -> _File:
        try:
            return _File.model_validate_json(atomic_file.read(self._path))
        except FileNotFoundError:
            pass
        except (ValidationError, OSError):
            log.warning("%s unreadable: chosen models not used", self._path)
        return _File()
