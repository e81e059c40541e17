"""Feedback: what is kept of a verdict, the precision of a rule, and the proposed threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.config.model import from_mapping
from streamer.config.rule import Rule
from streamer.events.command_data import CommandData, Verdict
from streamer.events.verdicts import FILE, Judgement, VerdictFile, precision
from streamer.rules.feedback import judgement_of, propose
from tests.support.incidents import Camera, incidents_of


def judged(verdict: Verdict, *scores: float, rule_hash: str = "h") -> list[Judgement]:
    """Return verdicts on incidents, each of one answer with this score."""
    return [
        Judgement(
            incident=f"{verdict}-{score}-{rule_hash}", rule="visitor", stream="gate", verdict=verdict, by="me",
            time="2026-11-26T10:00:00Z", rule_hash=rule_hash, conditions=("label person",),
            best_score=score, start_score=score,
        )
        for score in scores
    ]  # fmt: skip


def rule(**when: Any) -> Rule:
    return Rule.model_validate({"when": {"label": "person", **when}})


def test_threshold_removes_wrong_and_keeps_right() -> None:
    found = judged("wrong", 0.5, 0.55, 0.6, 0.95) + judged("right", 0.8, 0.9, 0.99)
    assert str(propose(rule(min_score=0.4), found)) == (
        "min_score 0.7 would have removed 3 of 4 wrong and 0 of 3 right"
    )


def test_threshold_lies_between_close_scores() -> None:
    found = propose(rule(), judged("wrong", 0.5, 0.6, 0.701) + judged("right", 0.702, 0.8, 0.9))
    assert found is not None
    assert (found.min_score, found.wrong_removed) == (0.702, 3)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (rule(), judged("wrong", 0.5, 0.6) + judged("right", 0.7, 0.8, 0.9)),  # too few
        (rule(), judged("wrong", 0.5, 0.6, 0.65) + judged("right", 0.8, 0.9)),
        (rule(), judged("wrong", 0.8, 0.85, 0.9) + judged("right", 0.5, 0.95, 0.99)),  # no right one is given up
        (rule(min_score=0.7), judged("wrong", 0.5, 0.6, 0.65) + judged("right", 0.8, 0.9, 0.99)),  # raised already
        (rule(count="< 2"), judged("wrong", 0.5, 0.6, 0.65) + judged("right", 0.8, 0.9, 0.99)),
        (rule(absent="1m"), judged("wrong", 0.5, 0.6, 0.65) + judged("right", 0.8, 0.9, 0.99)),
    ],
)
def test_no_threshold_is_proposed_without_need(settings: Rule, found: list[Judgement]) -> None:
    assert propose(settings, found) is None


@pytest.mark.parametrize(("join", "has_proposal"), [("all", True), ("any", False)])
def test_threshold_needs_a_condition_that_must_be_true(join: str, has_proposal: bool) -> None:
    both = Rule.model_validate({"when": {join: [{"label": "person"}, {"stream": "up"}]}})
    found = judged("wrong", 0.5, 0.6, 0.65) + judged("right", 0.8, 0.9, 0.99)
    assert (propose(both, found) is not None) == has_proposal


def test_verdict_keeps_the_scores_of_its_incident() -> None:
    config = from_mapping(
        {
            "streams": {"gate": {"source": "synthetic", "tasks": [{"task": "object_detection", "name": "people"}]}},
            "rules": {"visitor": {"when": {"label": "person"}, "hold": {"hits": "2 of 2"}}},
        }
    )
    events = incidents_of(config, Camera("gate"), 0.9, 0.6, 0.7, 0.99)
    command = CommandData(by="anna", incident=events[0].data.incident, rule="visitor", stream="gate", verdict="wrong")
    kept = judgement_of(command, events[0].time, events[-1].data)
    assert kept is not None
    assert (kept.start_score, kept.best_score, kept.conditions) == (0.6, 0.9, ("label person",))
    assert (kept.by, kept.verdict, kept.rule_hash) == ("anna", "wrong", events[0].data.rule_hash)


def test_precision_counts_the_present_definition() -> None:
    found = judged("right", 0.5, 0.6, 0.7) + judged("wrong", 0.5) + judged("wrong", 0.1, 0.2, rule_hash="old")
    assert str(precision(found, "visitor", {"h"})) == "precision 75 % (3 right, 1 wrong)"
    assert precision(found, "visitor") == (3, 3)
    assert precision(found, "other").share is None


def test_newest_verdict_counts_and_survives_a_torn_line(tmp_path: Path) -> None:
    first, second = VerdictFile(tmp_path), VerdictFile(tmp_path)
    (wrong,) = judged("wrong", 0.5)
    first.add(wrong)
    assert second.judgements() == {wrong.incident: wrong}
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"incident": "torn')
    right = wrong.model_copy(update={"verdict": "right"})
    first.add(right)
    assert second.judgements() == {wrong.incident: right}
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_verdict_waits_until_the_file_can_be_written(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    store = VerdictFile(tmp_path)
    (one,) = judged("right", 0.5)
    store.add(one)
    assert not store.store()
    (tmp_path / FILE).rmdir()
    assert store.store()
    assert store.judgements() == {one.incident: one}
