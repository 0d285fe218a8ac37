"""Fields that take a JSON value for what it is: no ``"1"`` for 1, no ``"yes"`` for true, no 1.5 for 1."""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import ValidationError, fields, validate

from shared.domain.models import JsonObject


class Text(fields.String):
    """A text, of at least one character, and at most ``most`` if that is given."""

    def __init__(self, *, most: int | None = None, least: int = 1, required: bool = False) -> None:
        super().__init__(required=required, validate=validate.Length(min=least, max=most))


class Integer(fields.Field[int]):
    """An integer; ``true`` is none, and neither is ``2.0``."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValidationError("Not an integer.")
        return value


class Number(fields.Field[float]):
    """A number; ``true`` is none."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
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
