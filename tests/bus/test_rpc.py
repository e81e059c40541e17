"""Requests between the processes of an agent."""

from __future__ import annotations

from pathlib import Path

from streamer.bus.rpc import RpcClient, RpcServer, infer_socket
from tests.support.agents import until


def test_dropped_requests_do_not_reach_a_later_server(tmp_path: Path) -> None:
    path = infer_socket(tmp_path, "1")
    client = RpcClient(path)
    client.send(op="for the dead one")
    client.drop_unsent()
    client.send(op="for the next one")
    server = RpcServer(path)
    (request,) = until(server.receive, 5, "a request")
    assert request.message["op"] == "for the next one"
    server.reply(request, done=True)
    (answer,) = until(client.receive, 5, "the answer")
    assert answer == {"done": True, "id": request.message["id"]}
    server.close()
    client.close()
