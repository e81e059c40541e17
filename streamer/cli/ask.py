"""`streamer ask`: run a task once on the newest frame of a running agent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from streamer.cli.client import REPLY_TIMEOUT_S, call
from streamer.cli.options import FurtherKeys, RegionText, RunningAgent, StreamName, ZoneName, given, with_further_keys
from streamer.core.errors import ConfigError
from streamer.core.printable import printable
from streamer.events.marks import marked_text

REASONS = {
    "small": "under 8 pixels",
    "most": "too many shapes",
    "words": "named otherwise",
    "score": "low score",
}
"""Reasons of the second look in words."""
PHRASE_TASK = "open_vocabulary_detection"
"""Task of a question that gives a text only."""


def ask(
    stream: StreamName,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Object or phrase to find.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Task to run, see `streamer tasks`. [default: find TEXT]")
    ] = None,
    region: RegionText = None,
    zone: ZoneName = None,
    further: FurtherKeys = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Have the model look at each shape again; print those that it confirms.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="As --confirm; also print the other shapes, and why they are refused.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as an event.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="Seconds to wait for the answer.")] = 30.0,
    agent: RunningAgent = None,
) -> None:
    """Run a task once on the newest frame of a running agent.

    The answer is printed only; it is not published as an event.
    """
    from streamer.bus.commands import Ask

    if task is None and text is None:
        raise ConfigError("nothing to ask: give TEXT or --task")
    entry = given(task=task or PHRASE_TASK, text=text, region=region, zone=zone)
    if confirm or explain:
        entry["confirm"] = True
    entry = with_further_keys(entry, further)
    answer = call(agent, seconds + REPLY_TIMEOUT_S, Ask(stream=stream, task=entry, seconds=seconds))
    raise typer.Exit(_print_answer(stream, answer, as_json, explain))


def _print_answer(stream: str, answer: dict[str, Any], as_json: bool, explain: bool) -> int:
    """Print an answer; return the exit code."""
    if "failed" in answer:
        print(f"streamer: no answer about {stream}: {answer['failed']}", file=sys.stderr)
        return 1
    event = answer["event"]
    if as_json:
        print(json.dumps(event))
    else:
        for line in (*describe(event), *(refusals(event) if explain else ())):
            print(line)
    if event["data"]["result"] is None:
        print(f"streamer: {event['data']['outcome']}: {event['data'].get('error', 'no answer')}", file=sys.stderr)
        return 1
    return 0


def describe(event: dict[str, Any]) -> Iterator[str]:
    """Return a result event as lines: its text, then one line per shape with label, score and coordinates."""
    result = event["data"]["result"]
    if result is None:
        return
    if text := marked_text(result):
        yield printable(text)
    for shape in (*result["boxes"], *result["polygons"], *result["quads"]):
        score = "" if shape["score"] is None else f"{shape['score']:.2f}  "
        coordinates = shape["box"] if "box" in shape else [value for point in shape["points"] for value in point]
        yield f"{printable(shape['label'])}  {score}{' '.join(f'{value:.2f}' for value in coordinates)}"
    if event["data"]["outcome"] == "empty":
        yield "nothing"


def refusals(event: dict[str, Any]) -> Iterator[str]:
    """Return the shapes that the second look refused as lines: label, scores, coordinates and reason."""
    for shape in event["data"].get("confirmation", {}).get("refused", ()):
        score = "" if shape["score"] is None else f"{shape['score']:.2f}  "
        place = " ".join(f"{value:.2f}" for value in shape["box"])
        support = "" if shape["support"] is None else f" ({shape['support']:.2f})"
        said = f": the model sees `{printable(shape['said'])}`" if shape["said"] else ""
        yield f"refused  {printable(shape['label'])}  {score}{place}  {REASONS[shape['reason']]}{support}{said}"
