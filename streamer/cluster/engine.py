"""The two Ray actors of a cluster, and the calls of the command line to them. Ray is imported only when it is used.

    controller    one, detached, on the head: decides (`controller.py`) and sends commands
    proxy         one on each host, owned by the controller (`proxy.py`): passes commands to the host process

Neither has state that matters, and no frame or event passes through Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamer.cluster.controller import Candidate, Controller
from streamer.cluster.host import CLAIMED, ORDER, REPORT
from streamer.cluster.placement import Placed
from streamer.cluster.plan import Plan, place
from streamer.cluster.proxy import Proxy
from streamer.core.errors import ConfigError, StreamerError

log = logging.getLogger(__name__)

CONTROLLER, NAMESPACE = "controller", "streamer"
ON_HEAD = {"node:__internal_head__": 0.001}
"""Any amount of the resource that only the head has: also one that has come back, which is another node for Ray."""
STEP_S = 1.0
"""Time between two reports of a host."""
ANSWER_S = 1.5
"""Longest wait for the hosts in one step. A host that needs longer is asked again when it has answered."""
STOP_S = 60.0
"""Longest time for all hosts to stop: a new host process may have to start first, and an agent needs up to 12 s."""
RETURN_S = 5.0
"""Seconds for which `stop` waits for hosts that Ray does not know, as they may just start again."""
CALL_S = 60.0
"""Longest wait of the command line for Ray."""
START_S = 180.0
"""Longest wait for a new process of Ray on a slow computer: it imports Ray and this program."""
LATE_OPS = ("report", "stop")
"""Questions whose answer is still right when it is late."""
OTHER_CONFIG = "its config has other streams or hosts: restart its host process"
LOST_PROXY_S = 15.0
"""Seconds after which a proxy that has answered before and does not answer is replaced."""


@dataclass(slots=True)
class Link:
    """A proxy and the question that it has not answered."""

    node: str
    actor: Any
    pending: Any = None
    op: str = ""
    asked_at: float = 0.0
    has_answered: bool = False

    def is_lost(self, now: float) -> bool:
        """Return whether the proxy is to be replaced. Before its first answer its process may still start."""
        return self.pending is not None and now - self.asked_at > (LOST_PROXY_S if self.has_answered else START_S)


class ControllerActor:
    """The actor with the controller. Its loop is a thread; the methods are for the command line."""

    def __init__(self, plan: dict[str, Any]) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        self._plan = Plan.model_validate(plan)
        plan_ = self._plan
        self._control = Controller(list(plan_.hosts), list(plan_.costs), self._place, plan_.lease_s, plan_.exclusive)
        self._links: dict[str, Link] = {}
        self._lock = threading.Lock()
        """Held while hosts are asked."""
        self._problems: dict[str, str] = {}
        self._status = self._describe(time.monotonic())
        self._ends = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def status(self) -> dict[str, Any]:
        """Return the state of hosts and streams, as plain data."""
        return {"mark": self._plan.mark, **self._status}

    def drain(self, host: str, back: bool) -> str | None:
        """Move the streams of a host to others; `back`: give it streams again. Return why that is impossible."""
        if host not in self._plan.hosts:
            return f"unknown host {host}: the config has {', '.join(self._plan.hosts)}"
        self._control.drain(host, not back)
        return None

    def stop(self) -> list[str]:
        """End the agents and host processes of all hosts in reach. Return the hosts whose end is not known."""
        self._ends.set()
        stopped: set[str] = set()
        began = time.monotonic()
        with self._lock:
            while len(stopped) < len(self._plan.hosts) and (passed := time.monotonic() - began) < STOP_S:
                self._connect()
                left = self._links.keys() - stopped
                if not left and passed > RETURN_S:
                    break
                answers = self._ask({name: {"op": "stop"} for name in left}, ANSWER_S)
                stopped |= {name for name, answer in answers.items() if "done" in answer}
                time.sleep(0.2)
        return [name for name in self._plan.hosts if name not in stopped]

    def _run(self) -> None:
        while not self._ends.is_set():
            began = time.monotonic()
            try:
                with self._lock:
                    self._connect()
                    self._step()
            except Exception as error:  # the controller goes on: Ray fails in many ways while hosts come and go
                log.warning("step failed: %s: %s", type(error).__name__, error)
            self._ends.wait(max(0.1, began + STEP_S - time.monotonic()))

    def _connect(self) -> None:
        """Make a proxy on each host that Ray has."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

        nodes = {node["NodeName"]: node for node in ray.nodes() if node["Alive"]}
        now = time.monotonic()
        for name in self._plan.hosts:
            node, link = nodes.get(name), self._links.get(name)
            if link and link.is_lost(now):
                with contextlib.suppress(Exception):
                    ray.kill(link.actor)
                del self._links[name]
                link = None
            if node is None or (link and link.node == node["NodeID"]):
                continue
            gpus = node["Resources"].get("GPU", 0)
            options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": -1}
            make = ray.remote(Proxy).options(**options, scheduling_strategy=OnNode(node["NodeID"], soft=False))
            actor = make.remote(self._plan.agent, name, self._plan.config)
            self._links[name] = Link(node["NodeID"], actor)

    def _step(self) -> None:
        control = self._control
        reports = self._ask({name: {"op": "report"} for name in self._links}, ANSWER_S)
        now = time.monotonic()
        for name, answer in reports.items():
            if "report" in answer:
                report = REPORT.validate_python(answer["report"])
                if answer.get("mark") != self._plan.mark:
                    report = replace(report, problem=OTHER_CONFIG)
                control.report(name, report, now)
            self._problems[name] = answer.get("failed", answer.get("error", ""))
        if claim := control.claim(now):
            message = {"op": "claim", "epoch": claim[0], "barred": sorted(claim[1])}
            answers = self._ask(dict.fromkeys(control.in_reach(now), message), ANSWER_S)
            found = {n: CLAIMED.validate_python(a["claimed"]) for n, a in answers.items() if "claimed" in a}
            control.claimed(found, time.monotonic())
        orders = control.orders(time.monotonic())
        for name, order in orders.items():
            log.info("order %d to %s: %s", order.epoch, name, ", ".join(sorted(order.streams)) or "no streams")
        self._ask(
            {name: {"op": "order", **ORDER.dump_python(order, mode="json")} for name, order in orders.items()}, ANSWER_S
        )
        self._status = self._describe(time.monotonic())

    def _ask(self, messages: Mapping[str, Mapping[str, Any]], timeout: float) -> dict[str, dict[str, Any]]:
        """Send each host its message and return the answers that come in time. A host that owes one is passed over."""
        import ray

        sent: dict[Any, str] = {}
        answers = {}
        for name, message in messages.items():
            link = self._links.get(name)
            if link is None:
                continue
            if link.pending is not None:
                if not ray.wait([link.pending], timeout=0)[0]:
                    continue
                was_asked, late = link.op, self._answer_of(name)
                if name not in self._links:
                    continue
                if message["op"] == was_asked and was_asked in LATE_OPS:
                    answers[name] = late  # a host that is always late is in reach all the same
            link.pending, link.asked_at = link.actor.call.remote(dict(message)), time.monotonic()
            link.op = message["op"]
            sent[link.pending] = name
        done = ray.wait(list(sent), num_returns=len(sent), timeout=timeout)[0] if sent else []
        return {**answers, **{sent[reference]: self._answer_of(sent[reference]) for reference in done}}

    def _answer_of(self, name: str) -> dict[str, Any]:
        """Return the answer that a proxy has given; forget a proxy that has died."""
        import ray

        link = self._links[name]
        reference, link.pending = link.pending, None
        try:
            answer: dict[str, Any] = ray.get(reference, timeout=ANSWER_S)
        except ray.exceptions.RayError as error:
            if not isinstance(error, ray.exceptions.ActorUnavailableError):
                del self._links[name]
            return {"failed": f"Ray: {type(error).__name__}"}
        link.has_answered = True
        return answer

    def _place(self, hosts: Sequence[Candidate], current: Mapping[str, str]) -> Placed:
        return place(self._plan, hosts, current)

    def _describe(self, now: float) -> dict[str, Any]:
        control, reach = self._control, self._control.in_reach(now)
        hosts = {}
        for name in self._plan.hosts:
            state = control.state(name, now)
            state["problem"] = state["problem"] or ("" if name in reach else self._problems.get(name, ""))
            hosts[name] = state
        return {"epoch": control.epoch, "hosts": hosts, "waiting": control.waiting(now)}


class Cluster:
    """The controller as the command line uses it. Raises ConfigError or StreamerError; bounded in time."""

    def __init__(self, address: str) -> None:
        self._ray = _connect(address)

    def start(self, plan: Plan) -> None:
        """Start the controller, or find the one that runs with the same config."""
        name = {"name": CONTROLLER, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        make = self._ray.remote(ControllerActor).options(
            **name, num_cpus=0, resources=ON_HEAD, max_restarts=-1, max_concurrency=4
        )
        self._call(make.remote(plan.model_dump(mode="json")).status.remote(), START_S)
        if self.status()["mark"] != plan.mark:
            raise ConfigError("a cluster with another config runs: `streamer cluster stop` ends it")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._call(self._controller().status.remote())
        return found

    def drain(self, host: str, back: bool) -> None:
        if problem := self._call(self._controller().drain.remote(host, back)):
            raise ConfigError(problem)

    def stop(self) -> list[str]:
        """End the cluster; return the hosts whose end is not known."""
        controller = self._controller()
        missing: list[str] = self._call(controller.stop.remote(), STOP_S + CALL_S)
        self._ray.kill(controller)
        return missing

    def _controller(self) -> Any:
        try:
            return self._ray.get_actor(CONTROLLER, namespace=NAMESPACE)
        except ValueError:
            raise ConfigError("no cluster runs here: start one with `streamer cluster run CONFIG`") from None

    def _call(self, reference: Any, timeout: float = CALL_S) -> Any:
        try:
            return self._ray.get(reference, timeout=timeout)
        except self._ray.exceptions.GetTimeoutError:
            raise StreamerError(f"the controller does not answer within {timeout:g} s: see `ray status`") from None
        except self._ray.exceptions.RayError as error:
            raise StreamerError(f"the controller failed ({type(error).__name__}): see the logs of Ray") from None


def _connect(address: str) -> Any:
    """Return the module `ray`, connected.

    Raises ConfigError without Ray and for a wrong token, StreamerError if the head does not answer.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("Ray is missing: install it with `pip install florence-streamer[cluster]`") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    failure: list[Exception] = []

    def connect() -> None:
        try:
            _check_head(address)
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many kinds
            failure.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    with _quiet():
        thread.start()
        thread.join(CALL_S)
    if failure and isinstance(failure[0], ray.exceptions.AuthenticationError):
        raise ConfigError(
            f"Ray at {address} refuses the token of this host: set RAY_AUTH_MODE=token, and put the token of its head "
            "into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if thread.is_alive() or failure:
        why = "refused" if failure else f"no answer within {CALL_S:g} s"
        raise StreamerError(f"cannot connect to Ray at {address} ({why}): its head must run, see `ray status`")
    return ray


def _check_head(address: str) -> None:
    """Raise OSError if nobody listens there, AuthenticationError of Ray for a wrong or missing token.

    `ray.init` tries again for 20 s in these cases, and does not say which one it is.
    """
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    found = canonicalize_bootstrap_address_or_die(address)
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CALL_S).close()
    ensure_token_if_auth_enabled(create_token_if_missing=False)  # without a token GcsClient ends the process
    GcsClient(address=found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what Ray writes to standard error: its messages repeat every second, and name its source files."""
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
