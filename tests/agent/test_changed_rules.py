"""Rules that are changed between two starts of an agent, while incidents are open and the state is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streamer.config.rule import STATE_FILE
from streamer.rules.state_file import read
from tests.support.agents import RunningAgent, assert_no_duplicates, until
from tests.support.killed_rules import incidents

START_S = 300.0
"""Longest start of an agent on a very busy machine."""
NOBODY: dict[str, Any] = {"when": {"not": {"label": "nobody"}}, "grace": "1h"}
"""A rule that is true at each answer."""
BEFORE = {"kept": NOBODY, "removed": NOBODY, "old-name": NOBODY, "changed": NOBODY}
AFTER = {"kept": NOBODY, "new-name": NOBODY, "changed": {**NOBODY, "when": {"not": {"label": "no one"}}}}
CHANGED, REMOVED = "the rule, or a zone or line that it names, was changed", "the rule was removed"


def stored(agent: Path) -> set[str]:
    """Return the rules whose state is stored."""
    try:
        return {rule for rule, _ in read(agent / "state" / "streamer" / "home" / STATE_FILE).state.activities}
    except (FileNotFoundError, ValueError):  # it is not made yet, or being made
        return set()


def test_incidents_end_or_go_on_when_their_rules_change(tmp_path: Path) -> None:
    everything = tmp_path / "all.jsonl"
    stories: dict[str, list[tuple[str, str | None]]] = {}
    ids: dict[str, set[str]] = {}

    def run(rules: dict[str, Any], expected: int) -> None:
        """Run the agent until there are so many incident events."""
        task = {"task": "object_detection", "name": "objects", "every": "200ms"}
        gate = {"source": "synthetic?seed=3&fps=10", "tasks": [task]}
        config = tmp_path / "home.yaml"
        sinks = [{"kind": "jsonl", "path": str(everything)}]
        config.write_text(json.dumps({"agent": "home", "streams": {"gate": gate}, "rules": rules, "sinks": sinks}))
        with RunningAgent(tmp_path / "agent", ["run", str(config)], everything) as agent:
            until(lambda: len(incidents(agent.events())) >= expected, START_S, f"incidents; log: {agent.log()}")
            until(lambda: stored(tmp_path / "agent") == set(rules), START_S, "the state of the rules is stored")
            agent.stop()
            found = incidents(agent.events())
        assert_no_duplicates(found)
        stories.clear()
        for one in found:
            data = one["data"]
            stories.setdefault(data["rule"], []).append((data["state"], data["reason"]))
            ids.setdefault(data["rule"], set()).add(data["incident"])

    start = ("start", None)
    run(BEFORE, 4)
    assert stories == {rule: [start] for rule in BEFORE}
    run(AFTER, 9)
    after: dict[str, list[tuple[str, str | None]]] = {
        "kept": [start],
        "removed": [start, ("end", REMOVED)],
        "old-name": [start, ("end", REMOVED)],
        "new-name": [start],
        "changed": [start, ("end", CHANGED), start],
    }
    assert stories == after
    assert len(ids["changed"]) == 2
    assert len(ids["kept"]) == 1
