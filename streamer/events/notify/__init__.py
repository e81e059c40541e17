"""Notifications of incidents: targets, their messages, and the delivery of a target's events from the ledger."""

from streamer.events.notify._base import Message, Messenger, TargetSettings
from streamer.events.notify.apprise import Apprise
from streamer.events.notify.web_push import WebPush

__all__ = ["Apprise", "Message", "Messenger", "TargetSettings", "WebPush"]
