"""Checks of notification targets for `streamer check` and `streamer rules check`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.core.errors import ConfigError
from streamer.core.printable import printable
from streamer.core.reasons import reason_of
from streamer.core.redact import redact

if TYPE_CHECKING:
    from streamer.config.model import Config


def check_targets(path: Path, config: Config) -> None:
    """Raise ConfigError with one `file:line: key: problem` for each target that certainly cannot work."""
    from streamer.config.model import place

    problems = []
    for name, target in config.notify.items():
        try:
            target.check()
        except ConfigError as error:
            problems.append(f"{place(path, ('notify', name, *target.checked_key))}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def send_tests(config: Config) -> bool:
    """Send one message to each target and print the outcome; return whether all were delivered."""
    from streamer.core.paths import state_folder
    from streamer.events.notify.text import message_for_test

    failed = 0
    for name, target in config.notify.items():
        try:
            with closing(target.open(state_folder(config.name))) as messenger:
                messenger.send(message_for_test(config.name, name))
            outcome = "ok"
        except Exception as error:  # also an error of a library is the result of this test
            failed += 1
            outcome = f"failed: {reason_of(error, f'notify.{name}')}"
        print(printable(redact(f"{name}: {outcome}")), flush=True)
    if not config.notify:
        print("there are no targets: the config has no `notify`")
    return not failed
