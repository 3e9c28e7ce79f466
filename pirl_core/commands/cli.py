"""``pirl``: the commands for people. The stages have their own, which DVC calls (`python -m pirl_core.stages...`)."""

import argparse
import os
import sys
from pathlib import Path

from pirl_core import console
from pirl_core.commands import claims, compare, doctor, evaluate, init, inspect, plan, runs, scale, serve, status
from pirl_core.commands import publish as checkpoints
from pirl_core.errors import UserError, told
from pirl_core.params.preset import preset_names

SHELLS = ("bash", "zsh", "tcsh")
COMPLETION_HELP = "print a completion script for your shell; with bash: source <(pirl completion bash)"
# Names of evaluations, beside folders, wherever an argument may be one.
PREAMBLE = {
    "bash": """\
_pirl_evaluations() {
  compgen -W "$(ls outputs/evaluate 2>/dev/null)" -- "$1"
  compgen -d -- "$1"
}""",
    "zsh": """\
_pirl_evaluations() {
  local -a names=(outputs/evaluate/*(N/:t))
  compadd -a names
  _files -/
}""",
}
RUN = {
    "init": init.run,
    "status": status.run,
    "runs": runs.run,
    "compare": compare.run,
    "claims": claims.run,
    "scale": scale.run,
    "plan": plan.run,
    "inspect": inspect.run,
    "export": checkpoints.run_export,
    "push": checkpoints.run_push,
    "serve": serve.run,
    "evaluate": evaluate.run,
    "doctor": doctor.run,
}
# What to do after it, in one line; what evaluate, doctor and serve say depends on what they found.
NEXT = {
    "init": "describe your experiment in params.yaml, then pirl plan tells what it takes and make reproduce runs it",
    "status": "pirl runs lists what was tried; pirl compare A B shows two evaluations side by side",
    "runs": "pirl compare metaworld-flow_sde RUN:metaworld-flow_sde pairs one of them with the present one",
    "compare": "pirl claims tells which of the paper's claims these results support",
    "claims": "make paper TABLE=9 runs what a table lacks; docs/claims.md says what a verdict means",
    "scale": "pirl plan tells what it takes; make reproduce runs it",
    "plan": "make reproduce runs it; docs/scaling.md says how on several GPUs",
    "inspect": "name it in params.yaml as curate.dataset, then make stage STAGE=sft@metaworld-0",
    "export": "pirl push puts it on the hub; pirl serve answers robots with it",
    "push": "look at the card there; --public makes a new repository public",
}
EVALUATION = {"bash": "_pirl_evaluations", "zsh": "_pirl_evaluations", "tcsh": "d"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pirl",
        description="Watch and compare runs of the pipeline, and take its policies out; dvc and make run it.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="what to do")
    add = commands.add_parser
    init.add_arguments(add("init", help=init.SUMMARY, description=f"Does one thing: {init.SUMMARY}."))
    status.add_arguments(add("status", help=status.SUMMARY, description=f"Tells {status.SUMMARY}."))
    runs.add_arguments(add("runs", help=runs.SUMMARY, description=f"Lists {runs.SUMMARY}."))
    about = compare.SUMMARY
    names = compare.add_arguments(add("compare", help=about, description=f"Prints {about}."))
    for action in names:
        action.complete = EVALUATION  # type: ignore[attr-defined]
    claims.add_arguments(add("claims", help=claims.SUMMARY, description=f"Prints {claims.SUMMARY}."))
    scale.add_arguments(add("scale", help=scale.SUMMARY, description=f"Does one thing: {scale.SUMMARY}."))
    plan.add_arguments(add("plan", help=plan.SUMMARY, description=f"Prints {plan.SUMMARY}."))
    inspect.add_arguments(add("inspect", help=inspect.SUMMARY, description=f"Tells {inspect.SUMMARY}."))
    about = checkpoints.EXPORT_SUMMARY
    checkpoints.add_export(add("export", help=about, description=f"Does one thing: {about}."))
    about = checkpoints.PUSH_SUMMARY
    checkpoints.add_push(add("push", help=about, description=f"Does one thing: {about}."))
    about = serve.SUMMARY
    serve.add_arguments(add("serve", help=about, description=f"Does one thing: {about}."))
    about = evaluate.SUMMARY
    evaluate.add_arguments(add("evaluate", help=about, description=f"Does one thing: {about}."))
    doctor.add_arguments(add("doctor", help=doctor.SUMMARY, description=f"Tells {doctor.SUMMARY}."))
    completion = add("completion", help=COMPLETION_HELP, description=f"To {COMPLETION_HELP}.")
    completion.add_argument("shell", choices=SHELLS, help="the shell to write it for")
    return parser


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest == "scale":
            action.choices = preset_names()


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0; 2 for bad input, told in one line; 130 after Ctrl-C."""
    console.speak()
    parser = build_parser()
    args = parser.parse_args(argv)
    # As for the stages, a package of one's own may lie in the working folder.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        if args.command == "completion":
            import shtab

            _complete_paths(parser)
            print(shtab.complete(parser, shell=args.shell, preamble=PREAMBLE.get(args.shell, "")))
        else:
            RUN[args.command](args)
            # For people, not for files and programs.
            if args.command in NEXT and sys.stdout.isatty() and not getattr(args, "json", False):
                print(f"\nNext: {NEXT[args.command]}")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, head or less, has seen enough; nothing more shall be flushed to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse(args.command, said)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
