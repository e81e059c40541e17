"""The `notify` of a config: receivers of notifications, and their quiet hours."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from streamer.config.calendar import TimeWindowsField
from streamer.core.settings import Settings
from streamer.events.incident_data import Severity
from streamer.events.notify import Apprise, TargetSettings, WebPush


class Quiet(Settings):
    """Hours in which a target gets no notifications below a severity."""

    between: TimeWindowsField
    """The hours: `22:00-07:00`, `sat-sun 00:00-09:00`, or a list of such."""
    below: Severity = "critical"
    """Lowest severity that is sent in these hours too."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if self.below == "info":
            raise ValueError("`below: info` is never quiet: no severity is lower")
        return self


class _QuietTarget(TargetSettings):
    """The keys of all targets that the rules use."""

    quiet: Quiet | None = Field(None)
    """Hours in which nothing below a severity is sent. Default: none."""


class AppriseTarget(_QuietTarget, Apprise):
    """A service that Apprise can reach: ntfy, Telegram, e-mail and more than 100 others."""


class WebPushTarget(_QuietTarget, WebPush):
    """The browsers in which somebody has turned notifications on, on the page."""


NotifyField = Annotated[AppriseTarget | WebPushTarget, Field(discriminator="kind")]
"""Settings of any kind of target."""
