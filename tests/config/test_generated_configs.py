"""Damaged variants of the full config, made by a seeded generator: each is read, or refused in words."""

from __future__ import annotations

import random
import re
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from streamer.cli import main
from streamer.config import model
from tests.support.certificates import Authority

FULL = Path("configs/full.yaml").read_text()
SECRETS = {
    "GATE_USER": "Hid1den",
    "GATE_PASSWORD": "Hid2den",
    "MQTT_USER": "Hid3den",
    "MQTT_PASSWORD": "Hid4den",
    "WEBHOOK_SECRET": "whsec_" + b64encode(b"Hid5den-0123456789abcdefghij").decode(),
    "STREAMER_TOKEN": "Hid6den-wq8Zr2LpX0vT",
    "KIOSK_TOKEN": "Hid7den-k3Vb9TmQe5Yd",
}
VALUES = (
    "", "null", "[]", "{}", "true", "0", "-1", "1e400", ".nan", "-.inf", "9" * 400, '"\\ud800"', '""', "'x", "*x", "&x",
    "!!python/object:os.system x", "!!int a", "<<: *x", "${HOME", "${}", "${NO_SUCH_VARIABLE}", "{a: {b: [c]}}",
    "[[1]]",
    "2026-11-25", "12:30:45", "0x1F", "0o17", "yes", "~", "a\tb", "é℀🐕", "../../etc/passwd", "/dev/null", "x" * 300,
    "rtsp://u:Hid0den/x@h/", "http://[::1", "synthetic?fps=0", "*/15 * * * *", "@reboot", "%TAG", "- - -", "? x",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The certificates that the full config names."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    agent = authority.issue("agent")
    credentials = authority.cert.with_name("agent.creds")
    credentials.write_text("SUAB")
    return {"ca.pem": authority.cert, "agent.pem": agent.cert, "agent.key": agent.key, "agent.creds": credentials}


@pytest.fixture(autouse=True)
def surroundings(files: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files and variables that the full config names."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    (tmp_path / "clip.mp4").touch()
    for name, file in files.items():
        shutil.copy(file, tmp_path / name)
    monkeypatch.chdir(tmp_path)


def test_generator_starts_from_a_valid_config(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(FULL)
    model.load(path)


def _replace(lines: list[str], rng: random.Random) -> None:
    places = [index for index, line in enumerate(lines) if ":" in line.split("#")[0]]
    index = rng.choice(places)
    lines[index] = f"{lines[index].split(':')[0]}: {rng.choice(VALUES)}"


def _drop(lines: list[str], rng: random.Random) -> None:
    del lines[rng.randrange(len(lines))]


def _repeat(lines: list[str], rng: random.Random) -> None:
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))


def _indent(lines: list[str], rng: random.Random) -> None:
    index = rng.randrange(len(lines))
    lines[index] = rng.choice((" ", "  ", "\t", "    ")) + lines[index]


def _rename(lines: list[str], rng: random.Random) -> None:
    index = rng.randrange(len(lines))
    lines[index] = re.sub(r"\b(\w)(\w+):", r"\2\1:", lines[index], count=1)


def _cut(lines: list[str], rng: random.Random) -> None:
    index = rng.randrange(len(lines))
    lines[index] = lines[index][: rng.randrange(len(lines[index]) + 1)]


def _flip(lines: list[str], rng: random.Random) -> None:
    index = rng.randrange(len(lines))
    if lines[index]:
        place = rng.randrange(len(lines[index]))
        lines[index] = lines[index][:place] + chr(rng.choice((0, 7, 34, 123, 0x85, 0xFEFF))) + lines[index][place + 1 :]


MUTATIONS: tuple[Callable[[list[str], random.Random], None], ...] = (
    _replace, _replace, _replace, _drop, _repeat, _indent, _rename, _cut, _flip,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(150))
def test_damaged_config_is_read_or_refused_in_words(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    lines = FULL.splitlines()
    for _ in range(rng.randint(1, 3)):
        rng.choice(MUTATIONS)(lines, rng)
    path = tmp_path / "home.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["streamer", "check", str(path)])
    code: object = 0
    try:
        main.main()
    except SystemExit as ended:
        code = ended.code or 0
    out, errors = capsys.readouterr()
    assert code in (0, 1, 2), errors
    assert bool(errors) or code == 0, "a refusal has words"
    for line in errors.splitlines() if code == 2 else ():
        assert re.match(rf"(streamer: )?{re.escape(str(path))}:(\d+: )? ?\S", line), line
    shown = out + errors
    assert not re.search(r"Traceback|pydantic|ruamel|[A-Z]\w+(Error|Exception)\b|<class|object at 0x", shown), shown
    assert not [secret for secret in SECRETS.values() if secret in shown], shown
