"""``pirl inspect``: what a dataset holds, and what would go wrong with it."""

import argparse
from pathlib import Path

from pirl_core.errors import UserError

SUMMARY = "what a dataset holds and what stage curate would say of it, as text and as a page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dataset", help="a folder, a file of steps, or a hub id such as lerobot/libero")
    add("--revision", help="its branch, tag or commit on the hub (default: the main branch)")
    add("--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)")
    add("--experiment", help="whose parameters (default: those that name the dataset, else all)")
    add("--episodes", type=int, default=200, help="look at the numbers of at most so many (default: %(default)s)")
    add("--page", type=Path, help="where the page goes (default: the folder inspect of outputs)")


def run(args: argparse.Namespace) -> None:
    from pirl_core.data.inspection import expected, inspect
    from pirl_core.files import write_text
    from pirl_core.params.errors import unknown
    from pirl_core.params.file import load_params, resolve
    from pirl_core.report.dataset import as_page, as_text

    if args.episodes < 1:
        raise UserError(f"--episodes {args.episodes}: must be 1 or more")
    params = load_params(args.params)
    if args.experiment is not None and args.experiment not in params.experiments:
        raise UserError(f"--experiment: {unknown(args.experiment, params.experiments)}")
    runs = {name: resolve(params, name) for name in params.experiments}
    named = [name for name, run in runs.items() if run.curate.dataset == args.dataset]
    chosen = [args.experiment] if args.experiment else named or list(runs)
    seen = inspect(args.dataset, args.revision, args.episodes)
    told = {name: expected(args.dataset, args.revision, runs[name]) for name in chosen}
    print(as_text(seen, told))
    page = args.page or Path("outputs/inspect") / f"{args.dataset.strip('./').replace('/', '-') or 'dataset'}.html"
    write_text(page, as_page(seen, told))
    print(f"\nPage  {page.resolve().as_uri()}")
