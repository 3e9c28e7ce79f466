"""``python -m pirl_core`` is ``pirl``."""

from pirl_core.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
