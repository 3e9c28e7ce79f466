"""``python -m pirl_core`` is ``pirl``."""

from pirl_core.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
