"""The data of a command to the rules, in `rules.mode`, `rules.snooze`, `rules.ack` and `rules.feedback`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamer.events.part import Part

CommandKind = Literal["mode", "snooze", "ack", "feedback"]
Verdict = Literal["right", "wrong"]


class CommandData(Part):
    by: str
    """The sender: `schedule`, `mqtt`, the user of the command line, or the name of the access token."""
    mode: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The new mode."""
    rule: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Rule of the snooze or of the incident; a snooze without it is about all rules."""
    stream: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Stream of the snooze or of the incident; a snooze without it is about all streams."""
    until: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """End of the snooze; absent if the snooze ends now."""
    incident: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Id of the incident that is acknowledged or judged."""
    verdict: Verdict | None = Field(default=None, exclude_if=lambda value: value is None)
    """Judgement of the incident: it is `right` or `wrong`."""
