"""A replay of rules on a ledger."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from streamer.core.errors import ConfigError
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.query import LedgerQuery
from streamer.events.ledger.retention import Retention
from streamer.rules.replay import replay
from tests.support.sample_events import event
from tests.support.stories import STORIES


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
