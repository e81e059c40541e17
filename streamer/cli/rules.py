"""`streamer rules`: list, check and command rules, and run one on the events of an agent's ledger."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli import rules_commands
from streamer.cli.options import RunningAgent
from streamer.core.errors import ConfigError
from streamer.core.printable import counted, printable

if TYPE_CHECKING:
    from streamer.config.model import Config
    from streamer.events.schema import IncidentEvent
    from streamer.events.snapshots.folder import SnapshotFolder
    from streamer.events.verdicts import Judgement

AnyConfig = Annotated[
    Path | None,
    typer.Option("--config", metavar="CONFIG", help="YAML config file. [default: that of the running agent]"),
]
RuleConfig = Annotated[Path, typer.Option("--config", metavar="CONFIG", help="YAML config file with the rules.")]

app = typer.Typer(help="List, check and command rules, and run one on past events.", no_args_is_help=True)
for command in (rules_commands.arm, rules_commands.snooze, rules_commands.ack, rules_commands.feedback):
    app.command()(command)


@app.command("list")
def list_rules(config: AnyConfig = None, agent: RunningAgent = None) -> None:
    """List rules and the precision of each.

    Of a running agent also the mode, the snoozes and the open incidents.
    """
    from streamer.config.model import load

    if config is None:
        for line in rules_commands.state_lines(agent):
            print(printable(line))
        return
    loaded = load(config)
    for line in rule_lines(loaded, _judgements(loaded.name)):
        print(printable(line))
    if not loaded.rules:
        print(f"{config} has no rules")


def rule_lines(config: Config, judgements: list[Judgement]) -> Iterator[str]:
    """Yield a line for each rule of a config, and one below it if the `judgements` propose another score."""
    from streamer.config.model import find_pipeline
    from streamer.config.rule import answering
    from streamer.events.verdicts import precision
    from streamer.rules.feedback import propose
    from streamer.rules.incident import hash_of

    kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
    for name, rule in config.rules.items():
        streams = list(answering(rule, config.streams, kinds).tasks)
        made = ", ".join(dict.fromkeys(task for (_, task), names in config.made.items() if name in names))
        judged = precision(judgements, name, {hash_of(rule, config.streams[stream]) for stream in streams})
        words = [rules_commands.rule_line(name, str(rule.when), rule.severity, streams, rule.modes)]
        words += [f"makes the task {made}"] if made else []
        words += [str(judged)] if judged.share is not None else []
        yield ", ".join(words)
        proposal = propose(rule, [one for one in judgements if one.rule == name])
        if proposal is not None:
            yield f"  proposal: {proposal}"


@app.command("check")
def check_rules(
    config: RuleConfig,
    send_test: Annotated[bool, typer.Option("--send-test", help="Send one test message to each target.")] = False,
) -> None:
    """Check the rules and the notification targets of a config."""
    from streamer.cli.targets import check_targets, send_tests
    from streamer.config.model import load

    loaded = load(config)
    check_targets(config, loaded)
    print(f"{config} is valid: {counted(len(loaded.rules), 'rule')}, {counted(len(loaded.notify), 'target')}")
    if send_test and not send_tests(loaded):
        raise typer.Exit(1)


@app.command("test")
def replay_rule(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Name of the rule.")],
    config: RuleConfig,
    since: Annotated[str, typer.Option(metavar="T", help="Only events of this time: 10m, 2h, 7d.")] = "7d",
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print the incident events as JSON Lines.")] = False,
) -> None:
    """Print the incidents that a rule makes of past events.

    The events are those that the agent of the config has stored.
    """
    from streamer.cli.events import find_ledger
    from streamer.config.changes import SavedChanges
    from streamer.config.model import load
    from streamer.config.validation import nearest
    from streamer.core.settings import option_seconds
    from streamer.events.ledger.query import LedgerQuery
    from streamer.events.schema import encode
    from streamer.events.snapshots.folder import SnapshotFolder
    from streamer.rules.replay import replay

    loaded = load(config)
    if rule not in loaded.rules:
        raise ConfigError(f"{config} has no rule `{rule}`{nearest(rule, list(loaded.rules))}")
    start = time.time() - option_seconds("--since", since)
    starts, told = 0, Counter[str]()
    with (
        contextlib.suppress(BrokenPipeError),
        contextlib.closing(LedgerQuery(ledger := find_ledger(loaded.name))) as query,
    ):
        snapshots = SnapshotFolder(ledger.parent)
        loaded = SavedChanges(ledger.parent).apply(loaded)
        for incident in replay(query, loaded, {rule: loaded.rules[rule]}, start):
            starts += incident.data.state == "start"
            told.update(incident.data.notify)
            sys.stdout.write((encode(incident).decode() if jsonl else _line(incident, snapshots)) + "\n")
        sys.stdout.flush()
        if not jsonl:
            print(f"{counted(starts, 'incident')} in the last {since}")
            for target in loaded.rules[rule].notify:
                print(f"{counted(told[target], 'notification')} to {printable(target)}")


def _judgements(agent: str) -> list[Judgement]:
    """Return the verdicts on the incidents of an agent; none if it has never run here."""
    from streamer.cli.events import find_ledger
    from streamer.events.verdicts import VerdictFile

    try:
        return list(VerdictFile(find_ledger(agent).parent).judgements().values())
    except ConfigError:
        return []


def _local(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _line(event: IncidentEvent, snapshots: SnapshotFolder) -> str:
    data = event.data
    words = [_local(event.time), data.stream, data.state, data.severity, data.text]
    words += [f"after {data.seconds:g} s"] if data.state != "start" else []
    words += [data.reason] if data.reason else []
    words += [f"{'changes' if data.silent else 'notifies'} {', '.join(data.notify)}"] if data.notify else []
    words += [f"snoozed until {_local(data.snoozed_until)}"] if data.snoozed_until else []
    file = snapshots.find(data.stream, data.best.event) if data.best.snapshot is not None else None
    words += [str(file)] if file is not None else []
    return printable("  ".join(words).replace("\n", " "))
