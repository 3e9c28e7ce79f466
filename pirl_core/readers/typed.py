"""JSON whose keys and their types are known."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pirl_core.errors import UserError


class Strict(BaseModel):
    """Numbers are numbers and words are words; a key that is not declared is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Open(BaseModel):
    """The same, with other keys beside those that are read."""

    model_config = ConfigDict(extra="allow", strict=True)


M = TypeVar("M", bound=BaseModel)


def check(model: type[M], content: Any, place: str, remedy: str) -> M:
    """``content`` as the model has it. place: where it stands. Raises UserError for the first that is not so."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise UserError(f"{place}: {where} = {first['input']!r:.60}: {first['msg'].lower()}; {remedy}") from None
