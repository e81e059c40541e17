"""The list of incidents that the page shows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from streamer.events.ledger import Ledger
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import IncidentEvent
from streamer.rules.state_file import rules_state
from streamer.web.monitor import incident_list
from streamer.web.monitor.event_follower import EventFollower
from streamer.web.monitor.incident_list import KEPT, IncidentList
from tests.support.incident_events import incident_event
from tests.support.stories import STORIES


def listed(folder: Path, events: Sequence[IncidentEvent]) -> IncidentList:
    """Return the list of a new web process on a ledger with these events."""
    path = folder / "ledger.db"
    with Ledger(path) as ledger:
        ledger.commit(events)

    async def read() -> IncidentList:
        with contextlib.closing(LedgerQuery(path)) as query:
            follower = EventFollower(query)
            found = IncidentList(LedgerQuery(path), follower, partial(rules_state, STORIES[0].config(), folder, path))
            following = [asyncio.create_task(one) for one in (follower.run(), found.run())]
            while found.position is None:
                await asyncio.sleep(0.01)
            follower.close()
            await asyncio.gather(*following)
            found.close()
            return found

    return asyncio.run(read())


def test_open_incident_is_listed_however_old_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident_list, "LOOK_BACK", 10)
    old = incident_event(0, age=900, rule="old")
    others = [incident_event(n, state, order=o) for n in range(1, 20) for o, state in enumerate(("start", "end"))]
    found = listed(tmp_path, [old, *others])
    assert found.open_count == 1
    assert [one.data.incident for one in found.newest_first()][-1] == "incident-0"
    assert len(list(found.newest_first())) == 6


def test_open_incidents_are_all_kept_and_the_last_that_ended(tmp_path: Path) -> None:
    opened = [incident_event(n, age=9999 - n, rule=f"r{n}") for n in range(2 * KEPT + 300)]
    ended = [incident_event(n, "end", order=1, rule=f"r{n}") for n in range(KEPT + 100)]
    found = listed(tmp_path, [*opened, *ended])
    assert found.open_count == len(opened) - len(ended)
    over = {one.data.incident for one in found.newest_first() if one.data.state == "end"}
    assert over == {f"incident-{n}" for n in range(100, KEPT + 100)}
    assert found.find("incident-99") is None
