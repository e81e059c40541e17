"""Prometheus metrics, read from the state of the web process at each scrape."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamer import __version__
from streamer.types import PRIORITIES
from streamer.web.connections import Connections
from streamer.web.mjpeg import JpegHub
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower

FRAMES = {
    "captured": "Frames decoded by this capture process.",
    "not_asked": "Frames that no task requested.",
    "done": "Frames with an answer.",
}
DRAFTS = {
    "checked": "Tokens of earlier answers that were used as a draft.",
    "right": "Draft tokens that were accepted.",
    "near": "Accepted draft tokens that are next to the most probable place (drafts: near).",
}


class _MetricsCollector(Collector):
    """The agent's metrics. Frame counters restart with each capture process, result counters with each web process."""

    def __init__(
        self, agent: str, capture: CapturePoller, events: EventFollower, jpegs: JpegHub, connections: Connections,
        rules: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self._agent, self._capture, self._events, self._jpegs = agent, capture, events, jpegs
        self._connections, self._rules = connections, rules

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("streamer_info", "The agent.", labels=["agent", "version"])
        info.add_metric([self._agent, __version__], 1)
        yield info
        yield from self._frames()
        yield from self._results()
        yield self._stretch()
        events = CounterMetricFamily("streamer_events", "Events accepted by the ledger since it was created.")
        events.add_metric([], self._events.position)
        yield events
        watchers = GaugeMetricFamily("streamer_watchers", "Clients that watch a view as MJPEG.", labels=["view"])
        for view, count in self._jpegs.watchers.items():
            watchers.add_metric([str(view)], count)
        yield watchers
        refused = CounterMetricFamily("streamer_web_refused", "Refused by the page's limits.", labels=["cause"])
        for cause, count in self._connections.refused.items():
            refused.add_metric([cause], count)
        yield refused

        if self._rules is not None:
            yield from _of_rules(self._rules)

    def _frames(self) -> Iterator[Metric]:
        now = time.monotonic()
        counted = {
            key: CounterMetricFamily(f"streamer_frames_{key}", text, labels=["stream"]) for key, text in FRAMES.items()
        }
        dropped = CounterMetricFamily(
            "streamer_frames_dropped", "Frames requested but not answered.", labels=["stream", "cause"]
        )
        in_flight = GaugeMetricFamily("streamer_frames_in_flight", "Frames in the model now.", labels=["stream"])
        age = GaugeMetricFamily("streamer_frame_age_seconds", "Age of the newest frame.", labels=["stream"])
        up = GaugeMetricFamily("streamer_capture_up", "1 while the capture process answers.", labels=["stream"])
        for stream, state in self._capture.states.items():
            up.add_metric([stream], state.answers(now))
            if (seconds := state.frame_age(now)) is not None:
                age.add_metric([stream], seconds)
            if state.counts is not None:
                for key, family in counted.items():
                    family.add_metric([stream], getattr(state.counts, key))
                for cause, count in state.counts.dropped.items():
                    dropped.add_metric([stream, cause], count)
                in_flight.add_metric([stream], state.counts.in_flight)
        yield from (*counted.values(), dropped, in_flight, age, up)

    def _stretch(self) -> Metric:
        stretch = GaugeMetricFamily(
            "streamer_interval_stretch",
            "Factor by which intervals are longer than configured; above 1 under overload.",
            labels=["stream", "priority"],
        )
        for stream in self._capture.states:
            factors = self._events.stretch.get(stream, {})
            for priority in PRIORITIES:
                stretch.add_metric([stream, priority], factors.get(priority, 1.0))
        return stretch

    def _results(self) -> Iterator[Metric]:
        labels = ["stream", "task"]
        results = CounterMetricFamily("streamer_results", "Results, by outcome.", labels=[*labels, "outcome"])
        for key, count in self._events.counts.items():
            results.add_metric([*key], count)
        delay = GaugeMetricFamily(
            "streamer_result_age_seconds", "Time from capture to publication of the newest result.", labels=labels
        )
        inference = GaugeMetricFamily(
            "streamer_inference_seconds", "Time in the model of the newest result.", labels=labels
        )
        when = GaugeMetricFamily(
            "streamer_result_captured_timestamp_seconds", "Capture time of the newest result's frame.", labels=labels
        )
        for task, event in self._events.results.items():
            timing = event["data"]["timing"]
            when.add_metric(task, datetime.fromisoformat(event["time"]).timestamp())
            inference.add_metric(task, timing["inference_ms"] / 1000)
            if timing["age_ms"] is not None:
                delay.add_metric(task, timing["age_ms"] / 1000)
        yield from (results, delay, inference, when)
        checked, right, near = (
            CounterMetricFamily(f"streamer_draft_tokens_{key}", text, labels=labels) for key, text in DRAFTS.items()
        )
        for task, counts in self._events.drafts.items():
            checked.add_metric(task, counts["checked"])
            right.add_metric(task, counts["right"])
            near.add_metric(task, counts["near"])
        yield from (checked, right, near)
        files = CounterMetricFamily("streamer_snapshots", "Snapshots stored.", labels=["stream"])
        size = CounterMetricFamily("streamer_snapshot_bytes", "Bytes of the snapshots stored.", labels=["stream"])
        for stream, made in self._events.snapshots.items():
            files.add_metric([stream], made["files"])
            size.add_metric([stream], made["bytes"])
        yield from (files, size)


def _of_rules(state: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the metrics of the rules. `state`: the answer to `ShowRules`."""
    mode = GaugeMetricFamily("streamer_rules_mode", "1 for the mode of the rules, 0 for the others.", labels=["mode"])
    for name in state["modes"]:
        mode.add_metric([name], name == state["mode"])
    snoozes = GaugeMetricFamily("streamer_rules_snoozes", "Snoozes that have not ended.")
    snoozes.add_metric([], len(state["snoozes"]))
    incidents = GaugeMetricFamily("streamer_incidents_open", "Incidents that have not ended.", labels=["rule"])
    counts = Counter(one["rule"] for one in state["incidents"])
    for rule in state["rules"]:
        incidents.add_metric([rule], counts[rule])
    yield from (mode, snoozes, incidents)


def exposition(
    agent: str, capture: CapturePoller, events: EventFollower, jpegs: JpegHub, connections: Connections,
    rules: Mapping[str, Any] | None,
) -> bytes:  # fmt: skip
    """Return the metrics in the Prometheus text format. `rules`: the answer to `ShowRules`, if there is one."""
    registry = CollectorRegistry()
    registry.register(_MetricsCollector(agent, capture, events, jpegs, connections, rules))
    return generate_latest(registry)
