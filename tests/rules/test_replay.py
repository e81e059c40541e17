"""A replay of rules on a ledger."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from streamer.cli.events import print_events
from streamer.core.errors import ConfigError
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.query import Filter, LedgerQuery
from streamer.events.ledger.retention import Retention
from streamer.rules.replay import replay
from tests.support.sample_events import event
from tests.support.stories import STORIES, Story, summary


def test_damaged_file_is_an_error_and_not_no_incidents(tmp_path: Path) -> None:
    path, config = tmp_path / LEDGER_FILE, STORIES[0].config()
    with Ledger(path, "home", Retention()) as ledger:
        ledger.commit([event(seq=seq) for seq in range(200)])
    content = path.read_bytes()
    with closing(LedgerQuery(path)) as query:
        assert len(list(replay(query, config, config.rules, None))) == 1
    path.write_bytes(content[:8192] + bytes(len(content) - 8192))
    with closing(LedgerQuery(path)) as query, pytest.raises(ConfigError, match="the ledger is damaged"):
        list(replay(query, config, config.rules, None))
    with pytest.raises(ConfigError, match="the ledger is damaged: no event after position 0 can be read"):
        print_events(path, Filter(), False, None)


def test_replay_of_a_part_knows_the_mode_and_the_snoozes(tmp_path: Path) -> None:
    story = next(one for one in STORIES if one.name == "mode switched in the middle")
    commands = Story("before", story.rule, "0 mode away\n1 snooze 3", [], ids="before").events()
    with Ledger(tmp_path / LEDGER_FILE, "home", Retention()) as ledger:
        ledger.commit(commands)
        time.sleep(0.01)
        since = time.time()
        ledger.commit(Story("after", story.rule, "2 person\n9 person", [], ids="after").events())
    config = story.config()
    with closing(LedgerQuery(tmp_path / LEDGER_FILE)) as query:
        assert summary(list(replay(query, config, config.rules, since))) == [
            "2 start (snoozed)",
            "4 update the snooze has ended",
        ]
        assert list(replay(query, config, config.rules, None)) == list(replay(query, config, config.rules, since))
