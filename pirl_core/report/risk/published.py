"""The numbers of the authors' logs, as data: ``published.yaml`` beside this."""

from functools import cache
from pathlib import Path

from pirl_core.errors import UserError
from pirl_core.params.errors import unknown
from pirl_core.params.sections import Params
from pirl_core.readers.strict_yaml import read_yaml

FILE = Path(__file__).with_suffix(".yaml")


@cache
def published() -> dict[str, dict[float, float]]:
    """Mean risk value of an episode: ``paper`` of an experiment -> γ -> value."""
    return {name: dict(zip(each["gammas"], each["values"], strict=True)) for name, each in read_yaml(FILE).items()}


def check_published(params: Params) -> None:
    """Raises UserError for a ``paper`` of which there are no numbers."""
    for name, world in params.risk.experiments.items():
        if world.paper not in (None, *published()):
            known = unknown(str(world.paper), published())
            raise UserError(f"risk.experiments.{name}.paper: {known}; or null, for a world that is none of the paper's")
