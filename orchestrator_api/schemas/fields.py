"""Fields that take a JSON value for what it is: no ``"1"`` for 1, no ``"yes"`` for true, no 1.5 for 1."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from marshmallow import ValidationError, fields, validate

from shared.domain.models import JsonObject


class Text(fields.String):
    """A text of bounded length, of a pattern if one is given."""

    def __init__(
        self, *, most: int, least: int = 1, pattern: re.Pattern[str] | None = None, required: bool = False
    ) -> None:
        super().__init__(required=required, validate=[validate.Length(min=least, max=most)])
        if pattern is not None:
            self.validators.append(_matches(pattern))


class Choice(fields.String):
    """One of a few texts."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__(validate=validate.OneOf(choices, error=f"Must be one of {', '.join(choices)}."))


class Integer(fields.Field[int]):
    """An integer from ``least`` to ``most``; ``true`` is none, and neither is ``2.0``."""

    def __init__(self, *, least: int, most: int) -> None:
        super().__init__(validate=validate.Range(min=least, max=most))

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValidationError("Not an integer.")
        return value


class Number(fields.Field[float]):
    """A finite number from ``least`` to ``most``."""

    def __init__(self, *, least: float, most: float) -> None:
        super().__init__(validate=validate.Range(min=least, max=most))

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValidationError("Not a number.")
        return value


class Boolean(fields.Field[bool]):
    """``true`` or ``false``."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Not true or false.")
        return value


class Object(fields.Field[JsonObject]):
    """An object of any members. What they mean is not a question of shape."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> JsonObject:
        if not isinstance(value, Mapping):
            raise ValidationError("Not an object.")
        return value


def _matches(pattern: re.Pattern[str]) -> validate.Validator:
    return validate.Regexp(re.compile(rf"(?:{pattern.pattern})\Z"), error=f"Must match ^{pattern.pattern}$.")
