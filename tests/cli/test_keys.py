"""`streamer keys` makes, shows, allows and replaces keys, and refuses files that others can read."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamer.bus.host_keys import HostKeys
from streamer.cli.main import app
from streamer.core.errors import ConfigError

OTHER = "ab" * 32


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def keys(*arguments: str) -> str:
    """Return what a successful `streamer keys` command prints. Raises its ConfigError."""
    result = CliRunner().invoke(app, ["keys", *arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_new_key_is_shown_with_the_allowed_hosts() -> None:
    public = keys("new").strip()
    assert keys("allow", "boxa", OTHER.upper()) == "boxa: allowed\n"
    assert keys("show") == f"{public}  this host\n{OTHER}  boxa\n"
    assert HostKeys().own().public.hex() == public


def test_key_files_are_private_whatever_the_umask(state: Path) -> None:
    keys("new")
    keys("allow", "boxa", OTHER)
    files = [path for path in state.rglob("*") if "host.keys" in str(path)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files if path.is_dir()} == {0o700}


def test_rotate_replaces_the_key_and_new_does_not() -> None:
    first = keys("new")
    with pytest.raises(ConfigError, match="streamer keys rotate"):
        keys("new")
    assert keys("rotate") != first


def test_forgotten_host_is_unknown() -> None:
    keys("allow", "boxa", OTHER)
    keys("forget", "boxa")
    with pytest.raises(ConfigError, match="`streamer keys show` lists the known ones"):
        keys("forget", "boxa")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
def test_secret_that_others_can_use_is_refused(mode: int) -> None:
    keys("new")
    HostKeys().secret_file.chmod(mode)
    with pytest.raises(ConfigError, match=r"chmod 600 .*keys rotate"):
        keys("show")


def test_folder_that_others_can_change_is_refused() -> None:
    keys("new")
    HostKeys().folder.chmod(0o770)
    with pytest.raises(ConfigError, match="chmod 700 "):
        keys("show")


@pytest.mark.parametrize("text", ["", "abc", "ab" * 31, "ab" * 33, "zz" * 32, "a b" * 32])
def test_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        keys("allow", "boxa", text)


@pytest.mark.parametrize("name", ["../x", "A", "", "a" * 64, "-"])
def test_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        HostKeys().allow(name, OTHER)


def test_one_key_has_one_name() -> None:
    keys("allow", "boxa", OTHER)
    with pytest.raises(ConfigError, match="another name"):
        keys("allow", "boxb", OTHER)


def test_missing_and_damaged_keys_name_the_remedy() -> None:
    with pytest.raises(ConfigError, match="run `streamer keys new`"):
        keys("show")
    keys("new")
    HostKeys().secret_file.write_text("?")
    with pytest.raises(ConfigError, match="damaged"):
        keys("show")


def test_secret_is_in_no_text() -> None:
    keys("new")
    pair = HostKeys().own()
    assert pair.secret.hex() not in repr(pair)
    assert pair.secret.hex() not in keys("show")


def test_damaged_file_concerns_its_host_only() -> None:
    public = keys("new").strip()
    keys("allow", "boxa", OTHER)
    keys("allow", "boxb", "cd" * 32)
    HostKeys().peer_file("boxa").write_text("damaged")
    shown = CliRunner().invoke(app, ["keys", "show"], standalone_mode=False)
    assert shown.stdout == f"{public}  this host\n{'cd' * 32}  boxb\n"
    assert "keys allow boxa KEY" in str(shown.exception)
    assert keys("allow", "boxa", OTHER) == "boxa: allowed with a new key\n"
    HostKeys().peer_file("boxa").chmod(0o644)
    assert keys("forget", "boxa") == "boxa: not allowed any more\n"


def test_one_of_several_new_keys_is_made(tmp_path: Path) -> None:
    def make(_: int) -> str | None:
        try:
            return HostKeys(tmp_path / "keys").create().public.hex()
        except ConfigError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [key for key in pool.map(make, range(8)) if key is not None]
    assert made == [HostKeys(tmp_path / "keys").own().public.hex()]
