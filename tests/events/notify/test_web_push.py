"""Web push: messages for real subscriptions, delivered over real HTTPS to a receiver that decrypts them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import http_ece
import py_vapid
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from streamer.core.errors import ConfigError, SinkError, SinkRefused
from streamer.events.notify import Message, Messenger
from streamer.events.notify._push_messenger import MAX_PAYLOAD, payload
from streamer.events.notify.push_files import FOLDER, KEY_FILE, MAX_SUBSCRIPTIONS, PushFiles, Subscription, decode
from streamer.events.notify.push_links import LIFETIMES_S, PushLinks
from streamer.events.notify.web_push import WebPush
from tests.support.push_service import PushService, claims, push_service

INCIDENT = "c0ffee12ab34cd56ef7890ab12cd34ef"
MESSAGE = Message("m1", INCIDENT, "start", "ladder at gate", "1 x person at gate", "high", rule="ladder", stream="gate")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushService]:
    with push_service(tmp_path_factory.mktemp("push")) as service:
        yield service


@pytest.fixture(autouse=True)
def _forget(service: PushService) -> None:
    service.status.clear()
    for seen in (service.messages, service.headers, service.sizes):
        seen.clear()


@pytest.fixture
def messenger(service: PushService, tmp_path: Path) -> Iterator[Messenger]:
    with closing(settings(service).open(tmp_path)) as messenger:
        yield messenger


def settings(service: PushService, **keys: object) -> WebPush:
    return WebPush.model_validate(
        {"kind": "web_push", "contact": "mailto:me@example.org", "hosts": ["localhost"], "ca": service.ca, **keys}
    )


def test_browser_gets_the_message_with_its_links(service: PushService, messenger: Messenger, tmp_path: Path) -> None:
    PushFiles(tmp_path).add(service.subscription())
    messenger.send(replace(MESSAGE, picture=b"jpeg"))
    ((browser, message),) = service.messages
    assert browser == "phone"
    assert (message["title"], message["body"], message["tag"]) == (MESSAGE.title, MESSAGE.body, INCIDENT)
    links = PushLinks(PushFiles(tmp_path).keys().link_key)
    for purpose in ("snooze", "wrong", "picture"):
        assert links.read(f"/{message[purpose]}", time.time()) == (purpose, INCIDENT)
    (headers,) = service.headers
    assert (headers["ttl"], headers["topic"], headers["urgency"]) == ("3600", INCIDENT, "high")
    assert py_vapid.Vapid02.verify(headers["authorization"])
    signed = claims(headers["authorization"])
    assert (signed["aud"], signed["sub"]) == (f"https://localhost:{service.port}", "mailto:me@example.org")
    assert time.time() < signed["exp"] <= time.time() + 86400
    assert headers["authorization"].endswith(PushFiles(tmp_path).keys().public)


def test_encryption_is_that_of_the_standard() -> None:
    """The example of RFC 8291, section 5."""
    private = ec.derive_private_key(
        int.from_bytes(decode("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")), ec.SECP256R1()
    )
    body = decode(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8w"
        "EqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    secret = decode("BTBZMqHH6r4Tts7J_aSIgg")
    plain = http_ece.decrypt(body, private_key=private, auth_secret=secret, version="aes128gcm")
    assert plain == b"When I grow up, I want to be a watermelon"


@pytest.mark.parametrize("status", [404, 410])
def test_ended_subscription_is_removed(service: PushService, messenger: Messenger, tmp_path: Path, status: int) -> None:
    files = PushFiles(tmp_path)
    files.add(service.subscription("gone"))
    files.add(service.subscription("phone"))
    service.status["gone"] = status
    messenger.send(MESSAGE)
    assert [browser for browser, _ in service.messages] == ["phone"]
    assert files.subscriptions() == [service.subscription("phone")]


def test_message_is_repeated_where_it_failed(service: PushService, messenger: Messenger, tmp_path: Path) -> None:
    for browser in ("phone", "desk"):
        PushFiles(tmp_path).add(service.subscription(browser))
    service.status["desk"] = 503
    with pytest.raises(SinkError, match="localhost: HTTP 503"):
        messenger.send(MESSAGE)
    service.status.clear()
    messenger.send(MESSAGE)
    assert [browser for browser, _ in service.messages] == ["phone", "desk"]


def test_unreachable_browser_holds_no_other_up(service: PushService, messenger: Messenger, tmp_path: Path) -> None:
    for browser in ("phone", "desk"):
        PushFiles(tmp_path).add(service.subscription(browser))
    service.status["desk"] = 500
    for _ in range(2):
        with pytest.raises(SinkError):
            messenger.send(MESSAGE)
    messenger.send(MESSAGE)  # the third failure
    messenger.send(replace(MESSAGE, id="m2"))
    assert [browser for browser, _ in service.messages] == ["phone", "phone"]


def test_message_that_no_browser_gets_is_refused(service: PushService, messenger: Messenger, tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match="no browser has subscribed"):
        messenger.send(MESSAGE)
    PushFiles(tmp_path).add(service.subscription())
    service.status["phone"] = 403
    with pytest.raises(SinkRefused, match="localhost: HTTP 403"):
        messenger.send(MESSAGE)


def test_private_address_is_not_contacted(service: PushService, tmp_path: Path) -> None:
    PushFiles(tmp_path).add(service.subscription())
    with closing(settings(service, hosts=[]).open(tmp_path)) as other, pytest.raises(SinkError, match="localhost"):
        other.send(MESSAGE)
    assert service.messages == []


@pytest.mark.parametrize(
    "endpoint",
    ["http://push.example/x", "https://user:password@push.example/x", "https:///x", "https://[::1]/x", "file:///etc/passwd",
     "https://push.example/\n", "https://push.example:0/", "https://" + "x" * 3000],
)  # fmt: skip
def test_endpoint_must_be_a_web_address(service: PushService, endpoint: str) -> None:
    good = service.subscription()
    with pytest.raises(ValidationError):
        Subscription(endpoint=endpoint, p256dh=good.p256dh, auth=good.auth)


def test_key_that_is_no_point_is_removed(service: PushService, messenger: Messenger, tmp_path: Path) -> None:
    bad = service.subscription().model_copy(update={"p256dh": "BA" + "A" * 85})
    PushFiles(tmp_path).add(bad)
    with pytest.raises(SinkRefused, match="not valid"):
        messenger.send(MESSAGE)
    assert PushFiles(tmp_path).subscriptions() == []


def test_long_message_fits_into_a_push(service: PushService, messenger: Messenger, tmp_path: Path) -> None:
    PushFiles(tmp_path).add(service.subscription())
    messenger.send(replace(MESSAGE, body="ü😀" * 5000, picture=b"jpeg"))
    ((_, message),) = service.messages
    assert len(message["body"]) > 200
    assert service.sizes[0] <= 4096


def test_summary_has_no_buttons() -> None:
    summary = replace(MESSAGE, rule=None, topic="late-1", picture=b"jpeg")
    assert set(json.loads(payload(summary, PushLinks(b"key"), 0))) == {"title", "body", "tag", "severity", "silent"}
    assert len(payload(replace(MESSAGE, title="x" * 9000), PushLinks(b"key"), 0)) <= MAX_PAYLOAD


def test_link_allows_one_thing_for_a_time() -> None:
    links, now = PushLinks(b"key"), 1_800_000_000.0
    path = "/" + links.write("snooze", INCIDENT, now)
    assert links.read(path, now + LIFETIMES_S["snooze"] - 1) == ("snooze", INCIDENT)
    assert links.read(path, now + LIFETIMES_S["snooze"] + 1) is None
    assert PushLinks(b"other").read(path, now) is None
    for changed in (
        path.replace("snooze", "wrong"), path.replace("/snooze/", "/wrong/"), path[:-1], path + "0",
        path.replace("c0f", "d0f"), "/push/snooze/", "/push", "/api/incidents", path + "/x",
    ):  # fmt: skip
        assert links.read(changed, now) is None, changed


def test_keys_are_made_once_and_are_private(tmp_path: Path) -> None:
    keys = PushFiles(tmp_path).keys()
    assert PushFiles(tmp_path).keys() == keys
    file = tmp_path / FOLDER / KEY_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys.private not in repr(keys)
    file.write_text("{}")
    with pytest.raises(ConfigError, match="is damaged: delete it"):
        PushFiles(tmp_path).keys()


def test_number_of_browsers_is_limited(service: PushService, tmp_path: Path) -> None:
    files = PushFiles(tmp_path)
    for number in range(MAX_SUBSCRIPTIONS):
        files.add(service.subscription(f"b{number}"))
    files.add(service.subscription("b0"))
    with pytest.raises(ConfigError, match="turn one of them off"):
        files.add(service.subscription("more"))


@pytest.mark.parametrize(
    "private", ["", "aa", "A" * 43, "_" * 43, "\u00e9" * 43], ids=["empty", "short", "zero", "large", "text"]
)
def test_damaged_key_is_told_before_anything_is_sent(private: str, tmp_path: Path) -> None:
    public = PushFiles(tmp_path).keys().public
    (tmp_path / FOLDER / KEY_FILE).write_text(json.dumps({"private": private, "public": public}))
    with pytest.raises(ConfigError, match="is damaged: delete it"):
        PushFiles(tmp_path).keys()


def test_contact_that_is_no_address_is_refused_in_words() -> None:
    with pytest.raises(ValidationError, match="must be `mailto:` and an e-mail address"):
        WebPush(kind="web_push", contact="me@example.org")
