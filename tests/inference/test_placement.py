"""Placement of streams on processes, with a clock of its own."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from streamer.inference.placement import MIN_LOAD, MOVE_GAP_S, SETTLE_S, Placement

PROCESSES = ("0", "1", "2", "3")
LOADS = {f"cam{number:03}": 0.02 + 0.001 * (number % 7) for number in range(100)}


def placed(processes: tuple[str, ...] = PROCESSES, loads: dict[str, float] = LOADS) -> Placement:
    placement = Placement(processes, loads, frozenset())
    for process in processes:
        placement.up(process, 0.0)
    return placement


def balance(placement: Placement, start: float, seconds: float) -> list[tuple[float, str]]:
    """Call `balance` ten times a second; return when which stream moved."""
    moments = (start + step / 10 for step in range(round(10 * seconds)))
    return [(now, stream) for now in moments if (stream := placement.balance(now)) is not None]


def spread(placement: Placement) -> float:
    used = [placement.used(process) for process in PROCESSES if placement.is_up(process)]
    return max(used) / min(used)


def test_streams_are_spread_by_load_and_the_same_each_time() -> None:
    placement = placed()
    assert spread(placement) < 1.05
    shuffled = dict(reversed(LOADS.items()))
    assert placed(loads=shuffled).process_of == placement.process_of
    assert balance(placement, 0.0, 60.0) == []


def test_paused_streams_are_spread_too() -> None:
    placement = placed(loads=dict.fromkeys("abcdefgh", 0.0))
    assert set(Counter(placement.process_of.values()).values()) == {2}
    assert placement.used("0") == 2 * MIN_LOAD


def test_streams_follow_the_measured_speeds() -> None:
    placement = placed()
    for process, speed in zip(PROCESSES, (1.0, 2.0, 3.0, 6.0), strict=True):
        placement.set_speed(process, speed)
    moves = balance(placement, 10.0, 120.0)
    assert spread(placement) < 1.3
    assert len({stream for _, stream in moves}) == len(moves), "none moves twice"
    share = Counter(placement.process_of.values())
    assert share["0"] < share["1"] < share["2"] < share["3"]
    for process in PROCESSES:  # noise of the measurement moves nothing
        placement.set_speed(process, placement._processes[process].speed * 1.05)
    assert balance(placement, 200.0, 60.0) == []


def test_only_streams_of_a_lost_process_move_at_once() -> None:
    placement = placed()
    before = dict(placement.process_of)
    placement.lose("2")
    moved = {stream for stream in before if placement.process_of[stream] != before[stream]}
    assert moved == {stream for stream, process in before.items() if process == "2"}
    assert "2" not in placement.process_of.values()
    assert spread(placement) < 1.1


def test_a_process_that_is_back_gets_streams_one_by_one() -> None:
    placement = placed()
    placement.lose("2")
    placement.up("2", 100.0)
    assert "2" not in placement.process_of.values()
    moves = balance(placement, 100.0, 60.0)
    assert moves[0][0] >= 100.0 + SETTLE_S
    assert all(later - earlier >= MOVE_GAP_S - 1e-6 for (earlier, _), (later, _) in pairwise(moves))
    assert spread(placement) < 1.3
    assert len({stream for _, stream in moves}) == len(moves)


def test_a_process_that_fails_again_and_again_gets_none() -> None:
    placement = placed()
    placement.lose("2")
    for second in range(100, 160, 4):
        placement.up("2", second)
        assert balance(placement, second, 3.0) == []
        placement.lose("2")
        assert "2" not in placement.process_of.values()


def test_streams_wait_for_a_process_that_starts() -> None:
    placement = Placement(("0", "1"), {"a": 1.0, "b": 1.0}, frozenset())
    assert placement.process_of == {"a": "0", "b": "1"}
    placement.up("0", 0.0)
    assert placement.process_of == {"a": "0", "b": "1"}
    placement.lose("1")
    assert placement.process_of == {"a": "0", "b": "0"}
    placement.lose("0")
    assert placement.process_of == {"a": "0", "b": "0"}, "no process is up"
    placement.up("1", 9.0)
    assert placement.process_of == {"a": "1", "b": "1"}


def test_a_recording_moves_only_from_a_lost_process() -> None:
    placement = Placement(("0", "1"), {"a": 1.0, "b": 1.0}, frozenset({"a", "b"}))
    placement.up("0", 0.0)
    placement.up("1", 0.0)
    placement.lose("1")
    placement.up("1", 1.0)
    assert balance(placement, 1.0, 60.0) == []
    assert placement.process_of == {"a": "0", "b": "0"}
    placement.end("a")
    placement.lose("0")
    assert placement.process_of == {"b": "1"}


def test_process_beside_another_gets_its_streams_on_command_only() -> None:
    placement = Placement((None,), {"gate": 1.0, "yard": 1.0}, frozenset())
    placement.up(None, 0.0)
    placement.add_process("b")
    placement.up("b", 1.0)
    assert placement.balance(100.0) is None
    assert set(placement.process_of.values()) == {None}
    placement.substitute(None, "b")
    assert set(placement.process_of.values()) == {"b"}
    assert placement.chosen == ("b",)
    placement.add("roof", 1.0)
    assert placement.process_of["roof"] == "b"
    placement.lose("b")
    assert set(placement.process_of.values()) == {None}, "the one that stands by helps if no other is up"
    placement.remove_process("b")
