"""What the sections are made of: numbers and texts with their limits, and names that are looked up."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pirl_core import named
from pirl_core.params.errors import unknown


def distinct(values: list[Any]) -> list[Any]:
    """Raises ValueError for a value that is listed twice."""
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise ValueError(f"lists {twice[0]} twice; remove one")
    return values


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
# Of what a machine holds or plays at once.
Count = Annotated[int, Field(ge=1, le=100_000)]
Whole = Annotated[int, Field(ge=0, le=100_000)]
# Of environments, of which one is simulated while the policy decides for another.
Groups = Annotated[int, Field(ge=1, le=8)]
# Of what it does one after the other.
Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
StepsOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Precision = Literal["fp32", "bf16", "pure_bf16"]
Record = Literal["none", "success", "all"]
# A part of the names of files, which have room for three and a seed.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Texts = Annotated[list[Text], AfterValidator(distinct)]
# Names of tasks, or of sets of them.
Tasks = Annotated[Texts, Field(min_length=1)]


def found(home: str, name: str, *module: str) -> str:
    """The name of a part that can be imported; not loaded, since it computes with torch. Raises ValueError for none."""
    if not named.exists(home, name, *module):
        raise ValueError(unknown_part(name, named.lacking(home, name, *module), named.known(home, *module)))
    return name


def unknown_part(name: str, lacking: str, known: list[str]) -> str:
    return lacking if named.NAME.fullmatch(name) and "." in name else unknown(name, known, lacking)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
