"""Feedback: what is kept of a judged incident, and the score below which a rule would have made fewer wrong ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from streamer.config.condition import Condition
from streamer.config.rule import Rule
from streamer.events.command_data import CommandData
from streamer.events.incident_data import IncidentData
from streamer.events.verdicts import Judgement

MIN_RIGHT, MIN_WRONG = 3, 3
"""Least verdicts of each kind for a proposal."""


class Proposal(NamedTuple):
    """A higher `min_score`, and what it would have done to the judged incidents."""

    min_score: float
    wrong_removed: int
    wrong: int
    right_removed: int
    right: int

    def __str__(self) -> str:
        return (
            f"min_score {self.min_score:g} would have removed {self.wrong_removed} of {self.wrong} wrong "
            f"and {self.right_removed} of {self.right} right"
        )


def judgement_of(command: CommandData, time: str, incident: IncidentData | None) -> Judgement | None:
    """Return what is kept of a verdict, None if it is none. `incident`: its newest event, None if there is none."""
    if command.incident is None or command.verdict is None or command.rule is None or command.stream is None:
        return None
    plain = Judgement(
        incident=command.incident,
        rule=command.rule,
        stream=command.stream,
        verdict=command.verdict,
        by=command.by,
        time=time,
    )
    if incident is None:
        return plain
    scores = {"best_score": incident.best.score, "start_score": incident.start_score}
    conditions = tuple(reason.condition for reason in incident.why)
    return plain.model_copy(update={"rule_hash": incident.rule_hash, "conditions": conditions, **scores})


def propose(rule: Rule, judgements: Iterable[Judgement]) -> Proposal | None:
    """Return the `min_score` that would have removed the most wrong incidents and no right one; None without one.

    `judgements`: those of the rule. An incident is certainly removed if its best score is lower, and certainly kept if
    no answer that started it has a lower one. Only a rule with one condition on scores has a proposal.
    """
    leaf = _scored(rule.when)
    if leaf is None:
        return None
    lowest = leaf.min_score or 0.0
    # Those below the present threshold were made before it was raised.
    about = [one for one in judgements if str(leaf) in one.conditions and (one.best_score or -1.0) >= lowest]
    right = [one.start_score for one in about if one.verdict == "right" and one.start_score is not None]
    wrong = [one.best_score for one in about if one.verdict == "wrong" and one.best_score is not None]
    if len(right) < MIN_RIGHT or len(wrong) < MIN_WRONG:
        return None
    kept = min(right)
    removable = [score for score in wrong if score < kept]
    if not removable or kept <= lowest:
        return None
    score = round((max(removable) + kept) / 2, 2)
    if not max(removable) < score <= kept:
        score = kept
    return Proposal(score, len(removable), len(wrong), 0, len(right))


def _scored(condition: Condition) -> Condition | None:
    """Return the only part of a condition that needs a score, if a higher one can only make fewer incidents."""
    leaves = [leaf for _, leaf in condition.leaves_with_place() if leaf.stream is None]
    only = leaves[0] if len(leaves) == 1 else None
    if only is None or only.absent is not None or (only.count is not None and only.count.operator not in (">=", ">")):
        return None
    return only if _must_be_true(condition, only) else None


def _must_be_true(condition: Condition, leaf: Condition) -> bool:
    """Return whether the condition is true only if the leaf is."""
    if condition is leaf:
        return True
    if condition.not_ is not None or condition.any is not None:
        return False
    return any(_must_be_true(part, leaf) for _, part in condition.parts)
