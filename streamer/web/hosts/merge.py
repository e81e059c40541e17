"""Merge the answers of several hosts into one, each by the URL that it answers.

All functions take the parsed answers by host, that of this host first. Each entry of a merged list has the key `host`.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping
from typing import Any

from streamer.web.monitor.status import ELSEWHERE

Json = dict[str, Any]
UNREACHABLE = "unreachable"
"""State of a host that gives no answer, and of a stream that may run there."""
POSITIONS = re.compile(r"[a-z0-9_-]{1,63}:\d{1,15}(,[a-z0-9_-]{1,63}:\d{1,15})*")
"""Positions of several hosts as a text such as `north:17,south:4`."""


def read_positions(text: str) -> dict[str, int]:
    """Return the positions by host in a text. Raises ValueError."""
    if not POSITIONS.fullmatch(text):
        raise ValueError("must be a `position` of an earlier answer, such as north:17,south:4")
    return {host: int(number) for host, _, number in (one.partition(":") for one in text.split(","))}


def write_positions(positions: Mapping[str, int]) -> str:
    return ",".join(f"{host}:{number}" for host, number in positions.items())


def not_reached(problems: Mapping[str, str]) -> str | None:
    """Return in words which hosts gave no answer and why, None if all did."""
    if not problems:
        return None
    return "not reached: " + ", ".join(f"{host} ({reason})" for host, reason in problems.items())


def merge_streams(found: Mapping[str, Json], problems: Mapping[str, str], before: Mapping[str, str]) -> Json:
    """Merge `/api/streams`: each stream once, from the host that runs it. `before`: hosts of the streams so far."""
    own = next(iter(found.values()))
    by_name: dict[str, Json] = {}
    for host, body in found.items():
        for stream in body["streams"]:
            device = stream["device"] and f"{host} {stream['device']}"
            by_name.setdefault(stream["name"], {})[host] = {**stream, "host": host, "device": device}
    streams = [_stream(one, problems, before.get(name)) for name, one in by_name.items()]
    hosts = [{"name": host, "state": "up", "reason": None} for host in found]
    hosts += [{"name": host, "state": UNREACHABLE, "reason": reason} for host, reason in problems.items()]
    return {
        **own,
        "position": write_positions({host: body["position"] for host, body in found.items()}),
        "devices": [
            {**device, "name": f"{host} {device['name']}"} for host, body in found.items() for device in body["devices"]
        ],
        "hosts": hosts,
        "streams": streams,
        "rules": {**own["rules"], "open": sum(body["rules"]["open"] for body in found.values())},
    }


def _stream(found: Mapping[str, Json], problems: Mapping[str, str], before: str | None) -> Json:
    """Return a stream as its host describes it. While two run it, because it moves, the host so far is kept."""
    running = {host: one for host, one in found.items() if one["state"] != ELSEWHERE}
    live = {host: one for host, one in running.items() if one["state"] == "live"}
    for candidates in (live, running):
        if candidates:
            return candidates.get(before or "") or next(iter(candidates.values()))
    alone = {**next(iter(found.values())), "host": None, "reason": "no host runs the stream"}
    if problems:
        alone |= {"state": UNREACHABLE, "reason": f"no host in reach runs the stream; {not_reached(problems)}"}
    return alone


def merge_events(found: Mapping[str, Json], problems: Mapping[str, str], after: Mapping[str, int] | None,
                 limit: int) -> Json:  # fmt: skip
    """Merge `/api/events`: by time, but those of one host in their order. `after`: positions of the request."""
    rows = {
        host: [{"position": one["position"], "host": host, "event": one["event"]} for one in body["events"]]
        for host, body in found.items()
    }
    positions = {host: body["position"] for host, body in found.items()}
    if after is None:
        newest = heapq.merge(*(one[::-1] for one in rows.values()), key=_time, reverse=True)
        events = list(newest)[:limit][::-1]
    else:
        events = list(heapq.merge(*rows.values(), key=_time))[:limit]
        for host, one in rows.items():
            taken = [event["position"] for event in events if event["host"] == host]
            if len(taken) < len(one):
                positions[host] = taken[-1] if taken else after.get(host, 0)
        positions = {**after, **positions}
    notes = [f"{host}: {body['note']}" for host, body in found.items() if body["note"]]
    missing = not_reached(problems)
    return {
        "position": write_positions(positions),
        "note": "; ".join([*notes, *([missing] if missing else ())]) or None,
        "events": events,
    }


def _time(row: Json) -> str:
    return str(row["event"].get("time", ""))


def merge_incidents(found: Mapping[str, Json], problems: Mapping[str, str], limit: int) -> Json:
    """Merge `/api/incidents`: newest first."""
    incidents = [{**one, "host": host} for host, body in found.items() for one in body["incidents"]]
    incidents.sort(key=lambda one: str(one["started"]), reverse=True)
    return {
        "complete": all(body["complete"] for body in found.values()) and not problems,
        "count": sum(body["count"] for body in found.values()),
        "note": not_reached(problems),
        "incidents": incidents[:limit],
    }


def merge_rules(found: Mapping[str, Json], problems: Mapping[str, str]) -> Json:
    """Merge `/api/rules`: each rule once, with the incidents and the feedback of all hosts."""
    own = next(iter(found.values()))
    rules = []
    for rule in own["rules"]:
        same = [one for body in found.values() for one in body["rules"] if one["name"] == rule["name"]]
        rules.append(
            {
                **rule,
                "open": sum(one["open"] for one in same),
                "last": max((one["last"] for one in same if one["last"]), default=None),
                **{key: _precision([one[key] for one in same]) for key in ("precision", "precision_ever")},
            }
        )
    return {**own, "snoozes": _snoozes(found.values()), "note": _mode_note(found, problems), "rules": rules}


def _precision(found: list[Json]) -> Json:
    right, wrong = sum(one["right"] for one in found), sum(one["wrong"] for one in found)
    return {"right": right, "wrong": wrong, "share": right / (right + wrong) if right + wrong else None}


def merge_rules_state(found: Mapping[str, Json], problems: Mapping[str, str]) -> Json:
    """Merge `/api/rules/state`."""
    own = next(iter(found.values()))
    incidents = [{**one, "host": host} for host, body in found.items() for one in body["incidents"]]
    return {
        **own,
        "snoozes": _snoozes(found.values()),
        "note": _mode_note(found, problems),
        "incidents": incidents,
    }


def _snoozes(bodies: Iterable[Json]) -> list[Json] | None:
    """Return the snoozes of all hosts, each once; None while no rules process answers."""
    known = [body["snoozes"] for body in bodies if body["snoozes"] is not None]
    if not known:
        return None
    return list({(one["rule"], one["stream"], one["until"][:19]): one for snoozes in known for one in snoozes}.values())


def _mode_note(found: Mapping[str, Json], problems: Mapping[str, str]) -> str | None:
    """Return in words that hosts have different modes, or were not reached."""
    modes = {host: body["mode"] for host, body in found.items() if body["mode"] is not None}
    notes = []
    if len(set(modes.values())) > 1:
        notes.append(
            f"the mode differs: {', '.join(f'{host} {mode}' for host, mode in modes.items())}; switch it again"
        )
    missing = not_reached(problems)
    return "; ".join([*notes, *([missing] if missing else ())]) or None
