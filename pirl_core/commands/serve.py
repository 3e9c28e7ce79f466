"""``pirl serve``: a policy for robot clients. torch and the transports' packages load only when it runs."""

import argparse
import asyncio
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl_core.commands.targets import policy_folder
from pirl_core.errors import UserError
from pirl_core.readers.text import read_text

if TYPE_CHECKING:
    from pirl_core.serving.server import Server

SUMMARY = "answer robot clients with a policy's actions, by a protocol of the field"
POLICY = "outputs/policy/metaworld-flow_sde-0"
KEY = "PIRL_API_KEY"
TRANSPORTS = {"openpi": "websocket", "vla_eval": "websocket", "groot": "zeromq", "lerobot": "grpc_calls"}
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("policy", type=Path, help=f"policy folder, such as {POLICY}, or one that pirl export wrote of a small policy")
    add("--protocol", choices=TRANSPORTS, default="openpi", help="what the clients speak (default: %(default)s)")
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine alone)")
    add("--port", type=number(0, 65535), help="port; 0 is any free one (default: that of the protocol's clients)")
    add(
        "--keys",
        metavar="PRESET",
        help="whose observation keys: libero, droid, aloha (default: the policy's benchmark)",
    )
    add(
        "--map",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="where a camera of the policy, its state or the prompt stands in a client's message; may be repeated",
    )
    add("--seed", type=number(0, 2**63), default=0, help="of the noise that actions start from (default: %(default)s)")
    add(
        "--max-batch",
        type=number(1, 4096),
        default=64,
        help="observations of different clients in one forward; 1: no answer depends on others, bit for bit "
        "(default: %(default)s)",
    )
    add("--max-clients", type=number(1, 65536), default=64, help="connections at once (default: %(default)s)")
    add("--max-message", type=number(1, 2048), default=32, metavar="MIB", help="of a message (default: %(default)s)")
    add("--timeout", type=number(1, 86400), default=30, help="seconds for an answer (default: %(default)s)")
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"whose first line clients must show; or set {KEY} (default: no key)",
    )


def run(args: argparse.Namespace) -> None:
    """Raises UserError for a policy, a preset, a map, a key or an address that cannot be used."""
    from pirl_core.stages.cli import set_threads

    policy_folder(args.policy)
    logging.basicConfig(format="pirl: serve: %(message)s")
    set_threads()
    # Else gRPC prints lines of its own; it reads this when it loads.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    transport, wire = (part(args.protocol, name) for name in (TRANSPORTS[args.protocol], args.protocol))
    from pirl_core.serving.server import Address

    # In a thread that ends: OpenMP keeps helpers for every thread that ever computed, and where these and the forwards'
    # own outnumber the cores, they sleep between operations instead of spinning, which doubles a small forward.
    with ThreadPoolExecutor(1) as loading:
        server = loading.submit(_server, args, wire).result()
    at = Address(args.host, wire.PORT if args.port is None else args.port)
    asyncio.run(_until_stopped(server, transport, at, args.protocol))


def part(protocol: str, name: str) -> Any:
    """The module of room serving. Raises UserError where a package that it needs is not installed."""
    try:
        return import_module(f"pirl_core.serving.{name}")
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("pirl_core"):
            raise
        raise UserError(
            f"--protocol {protocol}: package {error.name} is not installed; pip install 'pirl_core[serve]'"
        ) from None


def _server(args: argparse.Namespace, wire: Any) -> "Server":
    import numpy as np

    from pirl_core.serving.keys import keys_for
    from pirl_core.serving.policy import load_policy
    from pirl_core.serving.protocol import Served
    from pirl_core.serving.server import Limits, Server

    policy = load_policy(args.policy)
    keys = keys_for(policy.interface, args.protocol, args.keys, args.map)
    # What the first forward takes longer is no client's to wait for.
    size, names = policy.flow.backbone.shape.image_size, policy.interface
    policy.predict(dict.fromkeys(names.cameras, np.zeros((size, size, 3), np.uint8)), [0.0] * len(names.state), "")
    limits = Limits(args.max_message * MIB, args.max_clients, float(args.timeout), args.max_batch)
    return Server(Served(policy, keys, args.policy.resolve().name), wire, limits, args.seed, api_key(args.api_key_file))


async def _until_stopped(server: "Server", transport: Any, at: Any, protocol: str) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask() -> None:
        stop.set()
        # Whoever asks again does not want to wait for the answers under way.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)

    def ready(address: Any) -> None:
        served = server.served
        places = [
            *served.keys.cameras.items(),
            ("state", " + ".join(served.keys.state)),
            ("prompt", served.keys.prompt),
        ]
        for name, place in places:
            print(f"  {name:<20} at {place}")
        if server.key is None and not _is_loopback(address.host):
            print(f"  no API key: whoever reaches {address.host} may use this policy; set {KEY}")
        if protocol in ("openpi", "vla_eval"):
            print(f"  Next: pirl evaluate --server ws://HOST:{address.port} --protocol {protocol}, or a robot's client")
        print(f"serving {served.name} by {protocol} at {address.host}:{address.port}; stop it with Ctrl-C", flush=True)

    await transport.run(server, at, ready, stop)
    print("stopped", flush=True)


def api_key(path: Path | None) -> str | None:
    """Raises UserError for a key in two places, and for one that is empty or no single line of ASCII."""
    named, place = os.environ.get(KEY), KEY
    if path is not None:
        if named:
            raise UserError(f"--api-key-file {path}: {KEY} is set too; give one")
        named, place = read_text(path, "write the key into it").strip(), f"--api-key-file {path}"
    if named is None:
        return None
    if not named or not named.isascii() or not named.isprintable() or " " in named:
        raise UserError(f"{place}: a key is one word of printable ASCII; write such a one")
    return named


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def number(least: int, most: int) -> Any:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"give a whole number from {least} to {most}")
        return int(text)

    return parse
