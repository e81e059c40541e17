"""Runs the client of a server with asyncio in the thread of a sink. Every step has a time limit and cannot hold it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from streamer.core.addresses import Address, resolve
from streamer.core.errors import AddressError, ConfigError, SinkError
from streamer.core.network_failures import describe_os_error
from streamer.core.tls import describe_tls_error

T = TypeVar("T")

_CANCEL_S = 1.0
"""Time that a cancelled step has to end. Then it is left to itself."""

LookUp = Callable[[str], tuple[Address, ...]]
"""Returns the addresses of a host that may be used, the preferred one first. Raises AddressError."""


class _Loop(asyncio.SelectorEventLoop):
    """Knows its connections, which a client does not close in every case."""

    def __init__(self) -> None:
        super().__init__()
        self.transports: list[asyncio.BaseTransport] = []

    async def create_connection(self, *arguments: Any, **keys: Any) -> Any:
        return self._note(await super().create_connection(*arguments, **keys))

    async def create_unix_connection(self, *arguments: Any, **keys: Any) -> Any:
        return self._note(await super().create_unix_connection(*arguments, **keys))

    def _note(self, made: Any) -> Any:
        self.transports.append(made[0])
        return made

    async def abort_all(self) -> None:
        for transport in self.transports:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        for _ in range(3):  # the sockets are closed in a later turn of the loop
            await asyncio.sleep(0)


class EventLoop:
    """An asyncio event loop that runs only during a step."""

    def __init__(self, server: str, describe: Callable[[Exception], str | None]) -> None:
        """`server`: its name in errors. `describe`: returns why an error of the client happened, None if unknown."""
        self._server, self._describe = server, describe
        self._loop = _Loop()
        # Its default handler logs stacks of background tasks of the client, whose failure the next step reports.
        self._loop.set_exception_handler(lambda *_: None)

    def run(self, failure: str, limit_s: float, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`. Raises SinkError for every way in which it can fail."""
        prefix = f"{self._server}: {failure}"
        task = self._loop.create_task(work)
        if not self._wait({task}, limit_s):
            task.cancel()
            if self._wait({task}, _CANCEL_S) and not task.cancelled():
                task.exception()  # else asyncio logs that nobody has read it
            raise SinkError(f"{prefix} within {limit_s:g} s")
        try:
            return task.result()
        except SinkError as error:
            raise SinkError(f"{self._server}: {error}", error.wait_s) from None
        except TimeoutError:
            raise SinkError(f"{prefix} within {limit_s:g} s") from None
        except asyncio.CancelledError:
            raise SinkError(f"{prefix}: the connection was lost") from None
        except Exception as error:
            raise SinkError(f"{prefix}: {self._describe(error) or root_cause(error)}") from None

    def close(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._wait(tasks, _CANCEL_S)
        self._loop.run_until_complete(self._loop.abort_all())
        self._loop.close()

    def _wait(self, tasks: set[asyncio.Task[Any]], limit_s: float) -> bool:
        """Return whether the tasks have ended within the time. A task may ignore that it was cancelled."""
        _, pending = self._loop.run_until_complete(asyncio.wait(tasks, timeout=limit_s))
        return not pending


def resolve_configured(host: str) -> tuple[Address, ...]:
    """Return the addresses of a host that the config names. Raises AddressError."""
    return resolve(host, in_config=True)


async def look_up_within(limit_s: float | None, look_up: LookUp, host: str) -> tuple[Address, ...]:
    """Return the addresses of a host. The system's resolver has no time limit, so a thread calls it."""
    try:
        with anyio.fail_after(limit_s):
            return await anyio.to_thread.run_sync(look_up, host, abandon_on_cancel=True)
    except TimeoutError:
        raise AddressError(f"{host}: DNS does not answer") from None


async def try_each(
    addresses: tuple[Address, ...], limit_s: float, connect: Callable[[str], Coroutine[Any, Any, T]]
) -> T:
    """Return the first connection that one of the addresses accepts. Raises the error of the last one."""
    share_s = limit_s / len(addresses)
    for address in addresses[:-1]:
        with contextlib.suppress(Exception):  # whatever it was, the next address may do
            async with asyncio.timeout(share_s):
                return await connect(str(address))
    async with asyncio.timeout(share_s):
        return await connect(str(addresses[-1]))


def root_cause(error: BaseException) -> str:
    """Return the words for the system's or OpenSSL's error behind `error`."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case AddressError() | ConfigError():
                return str(cause)
            case ssl.SSLError():
                return describe_tls_error(cause, always_verified=True)
            case OSError(errno=int()):
                return describe_os_error(cause)
        cause = cause.__cause__ or cause.__context__  # clients raise it again `from None`
    return "the connection broke off"
