"""`streamer events`: lists, follows and exports the events in an agent's ledger, and its dead letters."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamer.core.errors import ConfigError
from streamer.core.paths import state_home
from streamer.core.printable import counted, printable
from streamer.events.marks import marked_text

if TYPE_CHECKING:
    from streamer.events.ledger.query import Entry, Filter, LedgerQuery

Export = Literal["jsonl", "csv"]
NEWEST = 50
"""Events that are printed without --since and --export."""
BATCH = 500
POLL_S = 0.2
"""Seconds between two reads with --follow."""
COLUMNS = ("time", "stream", "subject", "outcome", "text", "labels", "reason", "source", "sequence", "id")
_TIME = "%Y-%m-%d %H:%M:%S"


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new events and print them.")] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="T", help="Only events of this time: 10m, 2h, 7d. [default: the newest 50 events]"),
    ] = None,
    stream: Annotated[str | None, typer.Option(metavar="STREAM", help="Only events of this stream.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only events of this task, or of a status such as stream.down.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Only events with all these words in caption, labels or text.")
    ] = None,
    export: Annotated[Export | None, typer.Option(help="Print all events in this format, for other programs.")] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of an agent. [default: the only one on this computer]")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="List the events that sinks refused.")] = False,
    resend: Annotated[
        str | None, typer.Option(metavar="SINK", help="Send the events that this sink refused again.")
    ] = None,
) -> None:
    """Show events of an agent on this computer.

    The events come from the agent's ledger; the agent may be running or stopped.
    """
    from streamer.core.settings import option_seconds
    from streamer.events.ledger.dead_letters import request_resend
    from streamer.events.ledger.query import Filter

    start = None if since is None else time.time() - option_seconds("--since", since)
    try:
        ledger = find_ledger(agent)
        if resend is not None:
            print(f"{counted(request_resend(ledger, resend), 'event')} will be sent again by {resend}")
        elif dead:
            print_dead_letters(ledger)
        else:
            print_events(ledger, Filter(stream, task, search=search, since=start), follow, export)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def find_ledger(agent: str | None) -> Path:
    """Return the ledger of an agent on this computer.

    Raises ConfigError when there is none or more than one, or when it cannot be read.
    """
    from streamer.events.ledger import LEDGER_FILE
    from streamer.events.ledger.query import check_readable

    given = os.environ.get("STATE_DIRECTORY")
    roots = (Path(given).parent if given else state_home(), Path("/var/lib/streamer"))
    found = [path for root in roots for path in sorted(root.glob(f"*/{LEDGER_FILE}"))]
    if given:
        found = [path for path in [Path(given) / LEDGER_FILE] if path.exists()] or found
    names = [path.parent.name for path in found]
    if agent is not None:
        found = [path for path in found if path.parent.name == agent]
    if not found:
        subject = f"ledger of agent {agent}" if agent else "ledger"
        others = f"; agents with a ledger: {', '.join(names)}" if names else ""
        raise ConfigError(f"no {subject} found in {roots[0]} or {roots[1]}{others}")
    if len(found) > 1:
        raise ConfigError(f"several agents have a ledger here: add --agent and one of {', '.join(names)}")
    check_readable(found[0])
    return found[0]


def print_events(ledger: Path, filter: Filter, follow: bool, export: Export | None) -> None:
    """Print events until the end, or with `follow` until the reader of standard output is gone."""
    from streamer.events.ledger.query import LedgerQuery

    if export == "csv":
        _print(_csv(COLUMNS))
    from_start = export is not None or filter.since is not None
    with contextlib.suppress(BrokenPipeError), contextlib.closing(LedgerQuery(ledger)) as query:
        for entry in _entries(query, filter, from_start, follow):
            try:
                _print(_format(entry.body, export))
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError):  # not an event of this version
                print(f"streamer: event at position {entry.position} skipped: it cannot be read", file=sys.stderr)


def print_dead_letters(ledger: Path) -> None:
    """Print the events that sinks could not deliver, oldest first."""
    from streamer.events.ledger.dead_letters import list_dead_letters

    for one in list_dead_letters(ledger):
        when = datetime.fromtimestamp(one.created).astimezone().strftime(_TIME)
        event = json.loads(one.body)
        resend = " (will be sent again)" if one.resend else ""
        _print(printable(f"{when}  {one.sink}  {event['subject']} {event['id']}: {one.reason}{resend}"))


def _entries(query: LedgerQuery, filter: Filter, from_start: bool, follow: bool) -> Iterator[Entry]:
    position = 0
    if not from_start:
        page = query.newest(NEWEST, filter).intact()
        yield from page.entries
        position = page.position
    while True:
        page = query.after(position, BATCH, filter).intact()
        yield from page.entries
        position = page.position
        if len(page.entries) < BATCH:
            if not follow:
                return
            time.sleep(POLL_S)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _format(body: bytes, export: Export | None) -> str:
    if export == "jsonl":
        return body.decode()
    event = json.loads(body)
    fields = _fields(event)
    if export == "csv":
        return _csv(_no_formula(str(fields.get(name) or "")) for name in COLUMNS)
    when = datetime.fromisoformat(event["time"]).astimezone().strftime(_TIME)
    values = [fields[name] for name in ("outcome", "text", "labels", "reason") if fields.get(name)]
    texts = "  ".join([fields["stream"] or "-", event["subject"], *values])
    return f"{when}  {printable(texts.replace(chr(10), ' '))}"


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    data = event["data"]
    result = data.get("result") or {}
    shapes = [shape["label"] for kind in ("boxes", "polygons", "quads") for shape in result.get(kind, ())]
    labels = ", ".join(label for label in shapes if label)
    return {
        **event,
        "stream": data["stream"],
        "outcome": data.get("outcome"),
        "text": data["text"] if "incident" in data else marked_text(result),
        "labels": labels,
        "reason": data.get("reason") or data.get("error"),
    }


def _csv(fields: Iterable[str]) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(fields)
    return row.getvalue()


def _no_formula(text: str) -> str:
    """Return `text` such that a spreadsheet does not run text from a camera as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text
