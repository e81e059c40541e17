"""Texts of the model in the text of an incident."""

from __future__ import annotations

from streamer.config.model import from_mapping
from streamer.rules.descriptions import MAX_LENGTH, NONE, shortened
from streamer.rules.engine import Engine
from tests.support.stories import PERSON, Story, run

SAY = "{count} x {label}: {description}"
RULE = {"when": {**PERSON, "task": "people"}, "grace": "2s", "say": SAY}


def texts(*stories: Story, cut: bool = False) -> list[str]:
    engine = Engine(stories[0].config())
    found = []
    for story in stories:
        found += [one.data.text for one in run(engine, story.events())]
        if cut:
            saved, engine = engine.save(), Engine(story.config())
            assert engine.load(saved) == []
    return found


def test_newest_caption_describes_the_incident() -> None:
    before = Story("", RULE, '0 "a yard"\n1 "a {man} at a gate"', [], task="scene", ids="caption")
    visit = Story("", RULE, "2 person\n9 -\n12 -", [])
    for cut in (False, True):
        assert texts(before, visit, cut=cut)[0] == "1 x person: a {man} at a gate"


def test_incident_without_a_text_says_so() -> None:
    assert texts(Story("", RULE, "0 person", [])) == [f"1 x person: {NONE}"]


def test_text_about_the_object_comes_first() -> None:
    engine = Engine(Story("", RULE, "", []).config())
    caption, follow_up = Story("", RULE, '0 "a yard"\n1 "a man in red"', [], task="scene", ids="text").events()
    (seen, more) = Story("", RULE, "2 person\n3 person person", []).events()
    raw = follow_up.model_dump(mode="json")
    raw["data"]["parent"] = {"id": seen.id, "label": "person", "track": None}
    start = run(engine, [caption, seen])
    update = run(engine, [type(follow_up).model_validate(raw, strict=False), more])
    assert [one.data.text for one in (*start, *update)] == ["1 x person: a yard", "2 x person: a man in red"]


def test_description_is_one_short_line() -> None:
    assert shortened("a\x1b[31m red\r\n\tvan ") == "a[31m red van"
    assert len(shortened("x" * 1000)) == MAX_LENGTH


def test_config_accepts_the_placeholder() -> None:
    rule = from_mapping(Story("", RULE, "", []).config().raw).rules["story"]
    assert rule.describes
    assert not rule.model_copy(update={"say": "{{description}}"}).describes
