"""``python -m pirl_core.commands.dvc ...``: ``dvc ...`` without its advice on git and remotes after each stage, and
without its warnings of folders that are empty where params.yaml asks for none of their runs."""

import logging
import sys
from typing import Any

ADVICE = "Use `dvc push`"
EMPTY = "'%s' is empty."


def main() -> int:
    from dvc.cli import main as dvc
    from dvc.ui import ui

    write = ui.write

    def told(*words: Any, **how: Any) -> None:
        if not (words and str(words[0]).startswith(ADVICE)):
            write(*words, **how)

    ui.write = told
    # All that this one says is which files to add to git.
    logging.getLogger("dvc.repo.scm_context").addFilter(lambda record: record.levelno != logging.INFO)
    logging.getLogger("dvc.output").addFilter(lambda record: record.msg != EMPTY)
    return int(dvc(sys.argv[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
