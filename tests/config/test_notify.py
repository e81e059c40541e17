"""Config of notification targets: errors name the place and hide the URL."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from streamer.events.notify import apprise
from streamer.processes.assignment import Role
from streamer.processes.config_part import part_of
from tests.support.stories import STORIES

TOKEN = "123456789:AAEhBOweik6ad9r_QXMENQjcrGbqCr4K"
RULE = {"when": {"label": "person", "task": "people"}, "notify": ["phone"]}
PHONE = {"kind": "apprise", "url": f"tgram://{TOKEN}/12315544"}


def config(notify: dict[str, Any], rule: dict[str, Any] = RULE) -> Any:
    return from_mapping({**STORIES[0].config().raw, "rules": {"ladder": rule}, "notify": notify})


@pytest.mark.parametrize(
    ("phone", "message"),
    [
        ({}, "notify.phone: `kind` is missing"),
        ({**PHONE, "kind": "appris"}, "notify.phone.kind: unknown kind `appris` (did you mean `apprise`?)"),
        ({**PHONE, "url": TOKEN}, "notify.phone.url: must be an Apprise URL such as"),
        ({**PHONE, "url": f"tgram://{TOKEN}/a b"}, "must be written with %20"),
        ({**PHONE, "quit": 1}, "notify.phone.quit: unknown key (did you mean `quiet`?)"),
        ({**PHONE, "quiet": {"between": "22:00"}}, "notify.phone.quiet.between: must be a window"),
        ({**PHONE, "quiet": {"between": "22:00-07:00", "below": "info"}}, "is never quiet"),
        ({**PHONE, "max_age": "0s"}, "notify.phone.max_age: must be longer than zero"),
    ],
)
def test_wrong_target_is_refused_without_its_url(phone: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config({"phone": phone})
    assert message in str(refused.value)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fone"], "rules.ladder.notify[0]: unknown target `fone` (did you mean `phone`?)"),
        (["phone", "phone"], "rules.ladder.notify[1]: `phone` is named twice"),
    ],
)
def test_rule_names_known_targets_once(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config({"phone": PHONE}, {**RULE, "notify": names})
    assert str(refused.value) == message


def test_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apprise, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"notify\.phone\.kind: .* needs the package apprise: run `pip install"):
        config({"phone": PHONE})


def test_url_is_shown_as_its_scheme_only() -> None:
    target = config({"phone": PHONE}).notify["phone"]
    assert str(target.url) == "tgram://***"
    assert TOKEN not in repr(target)


def test_only_emit_gets_the_url() -> None:
    made = config({"phone": PHONE})
    for role in Role:
        if role not in (Role.VIEW, Role.PUSH):
            assert (TOKEN in str(part_of(made, role, "gate"))) == (role is Role.EMIT), role
