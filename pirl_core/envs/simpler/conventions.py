"""How SimplerEnv's numbers are meant, for policies of other people."""

from pirl_core.envs.put_on_plate.conventions import CONVENTIONS as CONVENTIONS
