"""Folders of an agent: locked, private, cleared of what killed agents left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.core.errors import ConfigError
from streamer.core.paths import AgentPaths, find_running, state_home

SOCKETS = ["frames-gate.sock"]


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a socket path has at most 107 bytes."""
    return tmp_path_factory.mktemp("p")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_running_agent_is_found_by_its_lock(tmp_path: Path) -> None:
    with AgentPaths.acquire("home", SOCKETS, keep_state=True) as paths:
        assert find_running(None) == ("home", paths.runtime)
        assert paths.runtime.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="no agent is running"):
        find_running(None)


def test_second_agent_is_refused_with_the_process_id_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AgentPaths.acquire("home", SOCKETS, keep_state=True):
        with (
            pytest.raises(ConfigError, match=f"agent home is already running: process {os.getpid()} holds .*stop it"),
            AgentPaths.acquire("home", SOCKETS, keep_state=True),
        ):
            pass
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
        with (
            pytest.raises(ConfigError, match=rf"run/streamer/home is in use: process {os.getpid()} holds .*set \$XDG"),
            AgentPaths.acquire("home", SOCKETS, keep_state=True),
        ):
            pass


@pytest.mark.parametrize("link", ["run/streamer", "run/streamer/home"])
def test_runtime_folder_that_is_a_link_is_refused(tmp_path: Path, link: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    (tmp_path / link).parent.mkdir(parents=True)
    (tmp_path / link).symlink_to(victim)
    with (
        pytest.raises(ConfigError, match="is a symbolic link: remove it"),
        AgentPaths.acquire("home", SOCKETS, keep_state=True),
    ):
        pass
    assert victim.stat().st_mode & 0o777 == 0o755
    assert not list(victim.iterdir())


def test_links_and_buffers_in_the_runtime_folder_are_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "keep").write_text("precious")
    runtime = tmp_path / "run" / "streamer" / "home"
    (runtime / "buffers").mkdir(parents=True)
    (runtime / "buffers" / "infer-1-00000000-0.buf").write_bytes(b"old")
    (runtime / "hls").symlink_to(victim)
    (runtime / "frames-gate.lock").symlink_to(victim / "keep")
    with AgentPaths.acquire("home", SOCKETS, keep_state=True):
        assert [path.name for path in runtime.iterdir()] == ["lock"]
    assert (victim / "keep").read_text() == "precious"


def test_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / "state" / "streamer" / "home").mkdir(parents=True)
    (tmp_path / "state" / "streamer" / "home" / "lock").symlink_to(precious)
    with pytest.raises(ConfigError, match=r"cannot write .*lock"), AgentPaths.acquire("home", SOCKETS, keep_state=True):
        pass
    assert precious.read_text() == "precious"


def test_long_socket_path_is_an_error_with_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with (
        pytest.raises(ConfigError, match=r"longer than 107 bytes: set \$XDG_RUNTIME_DIR"),
        AgentPaths.acquire("home", SOCKETS, keep_state=True),
    ):
        pass


KILLED = """
import os, signal
from streamer.core.paths import AgentPaths
with AgentPaths.acquire("killed", ["frames-gate.sock"], keep_state=False) as paths:
    print(paths.runtime, flush=True)
    (paths.runtime / "buffers").mkdir()
    (paths.runtime / "buffers" / "big").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_next_start_removes_the_folder_of_a_killed_agent(tmp_path: Path) -> None:
    with AgentPaths.acquire("alive", SOCKETS, keep_state=False) as alive:
        done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
        left = Path(done.stdout.strip())
        assert (left / "buffers" / "big").exists()
        foreign = left.with_name(f"streamer-of-the-user-{os.getpid()}")
        foreign.mkdir()
        (foreign / "lock").write_text("held by another program")
        try:
            with AgentPaths.acquire("next", SOCKETS, keep_state=False):
                assert not left.exists()
                assert alive.runtime.exists()
                assert foreign.exists()
        finally:
            shutil.rmtree(foreign)
    assert not alive.runtime.exists()


def test_user_without_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    with pytest.raises(ConfigError, match=r"no home folder.* set \$XDG_STATE_HOME"):
        state_home()


def test_folder_that_cannot_be_made_is_an_error_with_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for name, what in (("XDG_RUNTIME_DIR", "runtime"), ("XDG_STATE_HOME", "state")):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path / "file"))
            with (
                pytest.raises(ConfigError, match=rf"cannot create the {what} folder .*Not a directory: set \${name}"),
                AgentPaths.acquire("home", SOCKETS, keep_state=True),
            ):
                pass


def test_name_of_an_agent_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AgentPaths.acquire("home", SOCKETS, keep_state=True) as paths:
        monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state" / "streamer" / "home"))
        assert find_running("home") == find_running(None) == ("home", paths.runtime)
        for other in ("*", "hom?", "[h]ome", "yard", "..", "."):
            with pytest.raises(ConfigError, match=re.escape(f"agent {other} is not running")):
                find_running(other)
