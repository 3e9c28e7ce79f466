"""What people type: ``pirl`` and its commands, ``python -m pirl_core.commands.scale`` and ``…repro``."""
