"""Makes the config of an agent that runs some of the streams of a config."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from streamer.config.model import Config, find_pipeline, from_checked
from streamer.config.rule import Rule, answering


def select_streams(config: Config, streams: Collection[str], agent: str) -> Config:
    """Return the config with these streams only, of which at least one is in the config, for the agent of this name.

    Outputs of other streams are left out, and so are rules that none of these streams can answer: an agent must not
    report as absent or down what another one sees. The checks of the whole config hold for the part.
    """
    raw = config.raw
    part: dict[str, Any] = {
        **raw,
        "agent": agent,
        "streams": {name: stream for name, stream in raw["streams"].items() if name in streams},
    }
    if "outputs" in raw:
        kept = zip(raw["outputs"] or (), config.outputs, strict=True)
        part["outputs"] = [entry for entry, output in kept if output.stream in streams]
    if "rules" in raw:
        rules = {name: _rule(raw["rules"][name], rule, config, streams) for name, rule in config.rules.items()}
        part["rules"] = {name: rule for name, rule in rules.items() if rule is not None}
    made = {place: rules for place, rules in config.made.items() if place[0] in streams}
    return replace(from_checked(part), made=made)


def _rule(raw: Any, rule: Rule, config: Config, streams: Collection[str]) -> Any:
    """Return the plain data of a rule for these streams, or None if none of them can answer it."""
    kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
    here = [name for name in answering(rule, config.streams, kinds).tasks if name in streams]
    if not here or rule.when.streams is None:
        return raw if here else None
    return {**raw, "when": {**raw["when"], "streams": here}}
