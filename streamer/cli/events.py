"""`streamer events`: what the ledger of an agent holds, as lines, JSON Lines or CSV. Only `resend` writes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.events.ledger.query import Entry, Filter, LedgerQuery

NEWEST = 50
BATCH = 500
POLL_S = 0.2
BUSY_MS = 5000
COLUMNS = ("time", "stream", "subject", "outcome", "text", "labels", "reason", "source", "sequence", "id")


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new events and print them.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="Events of the last 10m, 2h, 7d. [default: the newest 50 events]")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Events of this stream only.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Events of this task name, or of a status such as stream.down, only.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Events with all these words in caption, labels or text only.")
    ] = None,
    export: Annotated[
        Literal["jsonl", "csv"] | None, typer.Option(help="Print all events in this format, for other programs.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Agent name. [default: the only one on this computer]")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="List the events that sinks refused.")] = False,
    resend: Annotated[
        str | None, typer.Option(metavar="SINK", help="Send the events that this sink refused again.")
    ] = None,
) -> None:
    """Show events of an agent on this computer.

    The events come from the agent's ledger; the agent may be running or stopped.
    """
    try:
        ledger = find_ledger(agent)
        if resend is not None:
            print(f"{resend_dead(ledger, resend)} events will be tried again by {resend}")
        elif dead:
            print_dead(ledger)
        else:
            print_events(ledger, stream, task, search, since, follow, export)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def find_ledger(agent: str | None) -> Path:
    """The ledger of an agent of this computer. Raises ConfigError for none, more than one, or one it cannot read."""
    import apsw

    from streamer.events.ledger import Replay

    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    found = [path for root in (home, Path("/var/lib")) for path in sorted((root / "streamer").glob("*/ledger.db"))]
    if given := os.environ.get("STATE_DIRECTORY"):
        found = [path for path in [Path(given) / "ledger.db"] if path.exists()] or found
    names = [path.parent.name for path in found]
    if agent is not None:
        found = [path for path in found if path.parent.name == agent]
    if not found:
        what = f"of an agent {agent}" if agent else "of any agent"
        known = f"; there are {', '.join(names)}" if names else ""
        raise ConfigError(f"there is no ledger {what} in {home}/streamer or /var/lib/streamer{known}")
    if len(found) > 1:
        raise ConfigError(f"several agents have a ledger here: add --agent and one of {', '.join(names)}")
    try:
        with contextlib.closing(Replay(found[0])) as replay:
            replay.heads()
    except apsw.Error as error:
        raise ConfigError(f"cannot read {found[0]}: {error}") from None
    return found[0]


def print_events(
    ledger: Path,
    stream: str | None,
    task: str | None,
    search: str | None,
    since: str | None,
    follow: bool,
    export: Literal["jsonl", "csv"] | None,
) -> None:
    """Print to standard output until its reader has gone. Raises ConfigError for a `since` that is no duration."""
    from streamer.core.settings import parse_seconds
    from streamer.events.ledger.query import Filter, LedgerQuery

    try:
        start = None if since is None else time.time() - parse_seconds(since)
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from None
    wanted = Filter(stream, task, search=search, since=start)
    everything = export is not None or since is not None
    if export == "csv":
        _write(_csv(COLUMNS))
    with contextlib.suppress(BrokenPipeError), contextlib.closing(LedgerQuery(ledger)) as book:
        for entry in _entries(book, wanted, everything, follow):
            _write(_line(entry.body, export))


def print_dead(ledger: Path) -> None:
    """Print the events that sinks refused, the oldest first."""
    import apsw

    with contextlib.closing(apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        db.set_busy_timeout(BUSY_MS)
        rows: Any = db.execute("SELECT created, sink, reason, resend, body FROM dead ORDER BY created")
        for created, sink, reason, again, body in rows:
            when = datetime.fromtimestamp(created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
            event = json.loads(body)
            soon = " (tried again soon)" if again else ""
            _write(f"{when}  {sink}  {event['subject']} {event['id']}: {reason}{soon}")


def resend_dead(ledger: Path, sink: str) -> int:
    """Have a sink try again what it refused, within seconds or when the agent is started; how many events these are."""
    import apsw

    with contextlib.closing(apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.set_busy_timeout(BUSY_MS)
        known = [name for (name,) in db.execute("SELECT sink FROM cursor").fetchall()]
        if sink not in known:
            raise ConfigError(f"--resend: there is no sink {sink}; there are {', '.join(map(str, known))}")
        db.execute("UPDATE dead SET resend = 1 WHERE sink = ?", (sink,))
        return db.changes()


def _entries(book: LedgerQuery, wanted: Filter, everything: bool, follow: bool) -> Iterator[Entry]:
    if everything:
        position = 0
    else:
        page = book.newest(NEWEST, wanted)
        yield from page.entries
        position = page.position
    while True:
        page = book.after(position, BATCH, wanted)
        yield from page.entries
        position = page.position
        if len(page.entries) < BATCH:
            if not follow:
                return
            time.sleep(POLL_S)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _line(body: bytes, export: Literal["jsonl", "csv"] | None) -> str:
    if export == "jsonl":
        return body.decode()
    event = json.loads(body)
    fields = _fields(event)
    if export == "csv":
        return _csv(_harmless(str(fields.get(name) or "")) for name in COLUMNS)
    when = datetime.fromisoformat(event["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    said = [fields[name] for name in ("outcome", "text", "labels", "reason") if fields.get(name)]
    return "  ".join([when, fields["stream"] or "-", event["subject"], *said]).replace("\n", " ")


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    data = event["data"]
    result = data.get("result") or {}
    shapes = [shape["label"] for kind in ("boxes", "polygons", "quads") for shape in result.get(kind, ())]
    labels = ", ".join(label for label in shapes if label)
    return {
        **event,
        "stream": data["stream"],
        "outcome": data.get("outcome"),
        "text": result.get("text"),
        "labels": labels,
        "reason": data.get("reason") or data.get("error"),
    }


def _csv(fields: Any) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(fields)
    return row.getvalue()


def _harmless(text: str) -> str:
    """What a camera has read must not become a formula in a spreadsheet."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text
