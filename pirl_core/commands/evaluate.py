"""``pirl evaluate --server``: the frozen protocol for a policy that somebody else serves."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl_core.commands.serve import KEY, api_key, number, part
from pirl_core.errors import UserError, WorkerDied
from pirl_core.report.tables import SINGLE_SEED, aligned, served_table

if TYPE_CHECKING:
    from pirl_core.params.file import Run
    from pirl_core.params.sections import Params
    from pirl_core.serving.keys import Keys
    from pirl_core.serving.remote import Remote

SUMMARY = "play the evaluation's episodes with a policy that somebody else serves"
PROTOCOLS = ("openpi", "vla_eval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", required=True, metavar="URL", help="where it is served, such as ws://127.0.0.1:8000")
    add("--protocol", choices=PROTOCOLS, default="openpi", help="what the server speaks (default: %(default)s)")
    add("--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)")
    add("--experiment", help="whose benchmark and splits (default: the only one)")
    add("--name", default="served", help="of the policy, in tables and in outputs/evaluate (default: %(default)s)")
    add("--seed", type=number(0, 2**31), default=0, help="of its training, for tables (default: %(default)s)")
    add("--keys", metavar="PRESET", help="whose observation keys: libero, aloha (default: the benchmark's)")
    add(
        "--map",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="where a camera, the state or the prompt stands in a message to the server; may be repeated",
    )
    add("--replan", type=number(1, 1000), help="execute so many actions of each chunk (default: all)")
    add("--timeout", type=number(1, 86400), default=120, help="seconds for an answer (default: %(default)s)")
    add("--api-key-file", type=Path, metavar="FILE", help=f"whose first line is shown to it; or set {KEY}")


def run(args: argparse.Namespace) -> None:
    """Raises UserError for arguments that do not fit params.yaml, and for a server that fails or does not fit."""
    from pirl_core.params.file import load_params
    from pirl_core.stages.alive import mortal
    from pirl_core.stages.cli import set_threads

    set_threads()
    params = load_params(args.params)
    experiment = _experiment(params, args)
    _require_free(params, args.name)
    with mortal():
        try:
            _evaluate(args, params, experiment)
        except WorkerDied as error:
            raise UserError(str(error)) from None


def _evaluate(args: argparse.Namespace, params: "Params", experiment: str) -> None:
    from pirl_core.evaluation.served import evaluate_served
    from pirl_core.evaluation.written import Whose
    from pirl_core.params.file import resolve
    from pirl_core.report.served import split_rows
    from pirl_core.stages.lock import exclusive

    found = resolve(params, experiment)
    benchmark = found.env.world
    remote, keys = _remote(args, found)
    folder = Path("outputs/evaluate") / f"{experiment}-{args.name}-{args.seed}"
    with exclusive("evaluate", folder.name), remote:
        remote.open(found.evaluate.num_envs)
        told = _stated(args, remote, keys)
        whose = Whose(experiment, benchmark, remote.greeting.name or args.name, args.name, args.seed)
        table = evaluate_served(remote, found.env, found.evaluate, whose, told, folder)
    noise = {"experiment": experiment, "policy": args.name, "noise": told["noise"]}
    print(aligned(*served_table([{**noise, **row} for row in split_rows(table)])) + f"\n\n† {SINGLE_SEED}")
    print(f"\nEpisodes, videos and what was asked of whom: {folder}")
    print(f"Next: pirl compare {experiment}-sft {folder.name}")


def _experiment(params: "Params", args: argparse.Namespace) -> str:
    from pirl_core.params.errors import unknown

    if args.experiment is not None:
        if args.experiment not in params.experiments:
            raise UserError(f"--experiment: {unknown(args.experiment, params.experiments)}")
        return str(args.experiment)
    if len(params.experiments) != 1:
        raise UserError(f"--experiment: {args.params} has {', '.join(params.experiments) or 'none'}; say which")
    return next(iter(params.experiments))


def _require_free(params: "Params", name: str) -> None:
    """Raises UserError for what is no name, or that of a policy of the pipeline."""
    if not (name.isascii() and name.replace("_", "").isalnum() and name == name.lower() and len(name) <= 60):
        raise UserError(f"--name {name[:60]}: give small letters, digits and _")
    if name in ("sft", *params.methods, *params.policies):
        raise UserError(f"--name {name}: a policy of the pipeline has that name; give another")


def _remote(args: argparse.Namespace, found: "Run") -> "tuple[Remote, Keys]":
    tongue: Any = part(args.protocol, f"ask_{args.protocol}")
    from pirl_core.envs.conventions import conventions_of
    from pirl_core.facts import facts_in
    from pirl_core.policy.interface import interface_of
    from pirl_core.serving.keys import keys_for
    from pirl_core.serving.line import Target
    from pirl_core.serving.remote import Remote

    env = found.env
    benchmark, facts = env.world, facts_in(env)
    interface = interface_of(env, facts.state_dim(env.object_state), len(facts.action), [])
    keys = keys_for(interface, args.protocol, args.keys, args.map)
    if len(keys.state) > 1:
        raise UserError(f"--map state: has {len(keys.state)} places; give one, --map state=PLACE")
    target = Target(args.server, api_key(args.api_key_file), float(args.timeout))
    return Remote(target, tongue, keys, interface, conventions_of(benchmark), args.replan), keys


def _stated(args: argparse.Namespace, remote: "Remote", keys: "Keys") -> dict[str, Any]:
    """Prints what is asked of whom, and gives it for the record."""
    from pirl_core.serving.agreement import stated

    noise = "of the episode and its chunk" if remote.keyed else "the server's own: a rerun may differ"
    name = remote.greeting.name or "a policy without a name"
    print(f"{remote.target.shown.removeprefix('--server ')} serves {name!r:.80} by {args.protocol}")
    for line in stated(keys, remote.conventions):
        print(line)
    print(f"  {'start noise':<20} {noise}", flush=True)
    about = remote.greeting.about
    return {
        "server": remote.target.shown.removeprefix("--server "),
        "protocol": args.protocol,
        "policy": remote.greeting.name,
        "about": about.model_dump() if about else None,
        "action_spec": {name: str(spec)[:200] for name, spec in remote.greeting.action.items()},
        "noise": "episode" if remote.keyed else "server",
        "keys": {"cameras": dict(keys.cameras), "state": keys.state[0], "prompt": keys.prompt},
        "replan": args.replan,
    }
