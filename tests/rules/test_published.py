"""An incident whose events are behind the stored state, as after a kill, ends once if its rule is gone."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from streamer.config.model import from_mapping
from streamer.events.ledger import LEDGER_FILE, Ledger
from streamer.events.ledger.query import LedgerQuery
from streamer.events.schema import IncidentEvent
from streamer.rules import published
from streamer.rules.engine import Engine
from streamer.rules.published import published_behind
from tests.support.stories import PERSON, Story, run, seconds

STORY = Story(
    "", {"when": PERSON}, "0 -\n1 person\n2 person person\n" + seconds(3, 8, "person") + seconds(9, 25, "-"), []
)
RULE = {"when": PERSON, "escalate": {"after": "5s", "to": "critical"}, "notify": ["phone"]}
PHONE = {"kind": "apprise", "url": "mailto://user:password@mail.example?to=a@b.example", "end": True}


def test_incident_behind_the_state_ends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each state is combined with each ledger that may belong to it: with the incidents of the state, or more."""
    monkeypatch.setattr(published, "BATCH", 2)
    config = from_mapping({**STORY.config().raw, "rules": {"story": RULE}, "notify": {"phone": PHONE}})
    engine = Engine(config)
    states, incidents = [(0, engine.save())], list[IncidentEvent]()
    for event in STORY.events():
        incidents += run(engine, [event])
        states.append((len(incidents), engine.save()))
    assert [one.data.state for one in incidents] == ["start", "update", "update", "end"]
    without = from_mapping({**config.raw, "rules": {}})
    with Ledger(tmp_path / LEDGER_FILE, "home") as ledger, closing(LedgerQuery(tmp_path / LEDGER_FILE)) as query:
        for count, newest in enumerate(incidents, 1):
            ledger.commit([newest])
            for known, state in states:
                if known > count:
                    continue
                assert Engine(config).load(state, published_behind(query, 0)) == [], "the rule is as it was"
                ends = Engine(without).load(state, published_behind(query, 0))
                assert len(ends) == (newest.data.state != "end")
                for end in ends:
                    assert isinstance(end, IncidentEvent)
                    same = end.data.model_dump(include={"incident", "severity", "started", "count", "answers", "best"})
                    if known < count:
                        assert same.items() <= newest.data.model_dump().items()
                    assert end.time >= newest.time
                    assert (end.data.state, end.data.number, end.data.notify) == ("end", count, ("phone",))
                    assert end.data.reason == "the rule was removed"
