"""`streamer keys`: the key of this host, and the keys of the hosts that exchange frames with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.bus.host_keys import HostKeys

PeerName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the other host: a-z, 0-9, - and _.")]

app = typer.Typer(help="Show and change the keys of hosts that exchange frames.", no_args_is_help=True)


def _keys() -> HostKeys:
    from streamer.bus.host_keys import HostKeys

    return HostKeys()


@app.command("new")
def new_key() -> None:
    """Make the key pair of this host and print its public key."""
    print(_keys().create().public.hex())


@app.command("show")
def show_keys() -> None:
    """Print the public keys of this host and of the allowed hosts."""
    keys = _keys()
    print(f"{keys.own().public.hex()}  this host")
    known, problems = keys.peers()
    for name, key in known.items():
        print(f"{key.hex()}  {name}")
    if problems:
        raise ConfigError("\n".join(map(str, problems)))


@app.command("allow")
def allow_peer(
    name: PeerName, key: Annotated[str, typer.Argument(metavar="KEY", help="Public key, as its `keys show` prints it.")]
) -> None:
    """Allow another host to ask for frames here, and to be asked."""
    replaced = _keys().allow(name, key)
    print(f"{name}: {'allowed with a new key' if replaced else 'allowed'}")


@app.command("forget")
def forget_peer(name: PeerName) -> None:
    """Allow a host no longer, which ends its access to frames."""
    _keys().forget(name)
    print(f"{name}: not allowed any more")


@app.command("rotate")
def rotate_key() -> None:
    """Replace the key pair of this host and print the new public key.

    Give the new public key to each host that has the old one: `streamer keys allow NAME KEY`.
    """
    print(_keys().create(replace=True).public.hex())
