"""The web process: one event loop with the HTTP server, and a thread that polls the capture processes."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from streamer.config.bind import Bind
from streamer.config.model import find_pipeline
from streamer.config.rule import answering
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from streamer.events.notify.push_files import PushFiles
from streamer.events.notify.push_links import PushLinks
from streamer.events.verdicts import VerdictFile
from streamer.processes.assignment import ReportKind
from streamer.processes.worker import Worker
from streamer.rules.incident import hash_of
from streamer.rules.state_file import rules_state
from streamer.web.app import guarded, make_app
from streamer.web.connections import Connections
from streamer.web.handlers import Handlers
from streamer.web.ledger_reader import LedgerReader
from streamer.web.mjpeg import JpegHub
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower
from streamer.web.monitor.incident_list import IncidentList
from streamer.web.monitor.task_list import TaskLists
from streamer.web.push_handlers import PushHandlers
from streamer.web.rule_commands import RuleCommands
from streamer.web.rule_handlers import RuleHandlers
from streamer.web.server import Server, listen
from streamer.web.stored_pictures import StoredPictures

if TYPE_CHECKING:
    from streamer.web.hosts.page import HostsPage

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.5


def run(worker: Worker) -> None:
    """Serve until the worker is stopped. Raises ConfigError if the address cannot be used."""
    assert worker.config.web is not None
    with listen(worker.config.web.bind) as listener, CapturePoller(worker.runtime, worker.config.streams) as capture:
        asyncio.run(_serve(worker, listener, capture))


async def _serve(worker: Worker, listener: socket.socket, capture: CapturePoller) -> None:
    ledger = worker.state / LEDGER_FILE
    query = LedgerQuery(ledger)
    events = EventFollower(query, worker.assignment.running, worker.assignment.made_at)
    jpegs = JpegHub(worker.runtime)
    tasks = TaskLists(worker.runtime, worker.config, worker.assignment.inference, worker.assignment.devices)
    reader = LedgerReader(ledger, events)
    assert worker.config.web is not None
    connections = Connections(worker.config.web.trusted_proxies)
    incidents = IncidentList(LedgerQuery(ledger), events, partial(rules_state, worker.config, worker.state, ledger))
    pictures = StoredPictures(worker.state, worker.config, reader)
    commands = RuleCommands(worker.runtime)
    handlers = Handlers(
        worker.config, worker.runtime, capture, events, reader, jpegs, tasks, connections, incidents, pictures, commands
    )
    rules, push = _rule_handlers(worker, incidents, commands), _push_handlers(worker, incidents, pictures, commands)
    app = make_app(handlers, rules, commands, push)
    all_hosts, host_tasks = _hosts(worker, app, connections)
    links = None if push is None else push.links
    server = Server(guarded(all_hosts or app, worker.config, connections, links), connections)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(worker.stop_fd)
        server.should_exit = True
        events.close()
        jpegs.close()

    loop.add_reader(worker.stop_fd, stop)
    background = [asyncio.create_task(_heartbeat(worker)), asyncio.create_task(tasks.run())]
    following = asyncio.create_task(events.run())
    reading = [following, *([asyncio.create_task(incidents.run())] if worker.config.rules else ())]
    for one in (*reading, *host_tasks):
        one.add_done_callback(lambda _: stop() if not worker.stopping else None)
    address = f"http://{Bind(*listener.getsockname()[:2])}"
    log.info("page served at %s", address)
    worker.report(ReportKind.READY, address=address)
    await server.serve([listener])
    await asyncio.gather(*reading, *(one for one in host_tasks if one.done()))
    for task in (*background, *host_tasks):
        task.cancel()
    await asyncio.gather(*host_tasks, return_exceptions=True)
    tasks.close()
    reader.close()
    incidents.close()
    query.close()


def _hosts(worker: Worker, app: ASGIApp, connections: Connections) -> tuple[HostsPage | None, list[asyncio.Task[None]]]:
    """Return the page of all hosts and the tasks that keep its connections; None on an agent outside a cluster.

    Raises ConfigError if this host has no key, or its address cannot be used.
    """
    cluster, own = worker.config.cluster, worker.assignment.host
    if cluster is None or own is None or len(cluster.running) < 2 or own not in cluster.running:
        return None, []
    from streamer.bus.host_keys import HostKeys
    from streamer.web.hosts.hosts import Hosts
    from streamer.web.hosts.page import HostsPage
    from streamer.web.hosts.remote import RemoteHost
    from streamer.web.hosts.server import HostServer

    keys = HostKeys()
    others = {name: host.address for name, host in cluster.running.items() if name != own}
    server = HostServer(keys, others, cluster.hosts[own].address, cluster.page_port, app, connections.refused)
    remotes = [RemoteHost(keys, name, address, cluster.page_port) for name, address in others.items()]
    tasks = [asyncio.create_task(server.run()), *(asyncio.create_task(one.run()) for one in remotes)]
    return HostsPage(app, Hosts(app, own, remotes)), tasks


def _rule_handlers(worker: Worker, incidents: IncidentList, commands: RuleCommands) -> RuleHandlers:
    config = worker.config
    kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
    tasks = {name: answering(rule, config.streams, kinds) for name, rule in config.rules.items()}
    hashes = {
        name: {hash_of(rule, config.streams[stream]) for stream in tasks[name].tasks}
        for name, rule in config.rules.items()
    }
    return RuleHandlers(config, tasks, hashes, incidents, VerdictFile(worker.state), commands)


def _push_handlers(
    worker: Worker, incidents: IncidentList, pictures: StoredPictures, commands: RuleCommands
) -> PushHandlers | None:
    """Return the handlers of web push, None without such a target. Raises ConfigError if its keys cannot be used."""
    if not any(target.kind == "web_push" for target in worker.config.notify.values()):
        return None
    keys = PushFiles(worker.state).keys()
    return PushHandlers(worker.state, keys, PushLinks(keys.link_key), incidents, pictures, commands)


async def _heartbeat(worker: Worker) -> None:
    """Beat from the event loop, so that a blocked loop is noticed."""
    while True:
        worker.heartbeat.beat()
        await asyncio.sleep(HEARTBEAT_S)
