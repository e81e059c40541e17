"""A stored state with impossible values is refused by name, or does no harm: it never ends the rules process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from streamer.rules.engine import Engine
from tests.support.stories import STORIES, Story, run

NAMES = (
    "arrives, not leaves", "camera still down when the hours begin", "held for 5 s", "state in a zone",
    "unusual at night, usual in the evening", "better frame",
)  # fmt: skip
WRONG: tuple[Any, ...] = (None, -1, 1e300, 1 << 70, "x", [], {})


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value inside."""
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*place, key))


def changed(value: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = wrong
    return copy


@pytest.mark.parametrize("story", [one for one in STORIES if one.name in NAMES], ids=lambda story: story.name)
def test_impossible_value_is_refused_by_name_or_does_no_harm(story: Story) -> None:
    config, events = story.config(), story.events()
    first, key, refused = Engine(config), ("story", "gate"), list[str]()
    middle = max(1, len(events) * 2 // 3)
    run(first, events[:middle])
    saved = first.save()
    body = saved.activities[key]
    assert body is not None
    whole = json.loads(body)
    for place in places(whole):
        for wrong in WRONG:
            engine = Engine(config)
            state = saved._replace(activities={key: json.dumps(changed(whole, place, wrong)).encode()})
            try:
                engine.load(state)
            except ValueError as error:
                refused.append(str(error))
                continue
            run(engine, events[middle : middle + 20])
    assert len(refused) > 50
    assert set(refused) == {"the state of rule story on gate is not valid"}


@pytest.mark.parametrize("clock", ["null", "-1", "1e300", "NaN", "Infinity"])
def test_impossible_clock_is_refused(clock: str) -> None:
    engine = Engine(STORIES[0].config())
    head = json.loads(engine.save().head)
    wrong = json.dumps({**head, "clock": 0}).replace('"clock": 0', f'"clock": {clock}')
    with pytest.raises(ValueError, match="clock"):
        engine.load(engine.save()._replace(head=wrong.encode()))
