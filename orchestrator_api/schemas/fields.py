"""Fields that take a JSON value for what it is: no ``"1"`` for 1, no ``"yes"`` for true, no 1.5 for 1."""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import ValidationError, fields, validate


class Text(fields.String):
    """A text, of at least one character, and at most ``most`` if that is given."""

    def __init__(self, *, most: int | None = None, least: int = 1, required: bool = False) -> None:
        super().__init__(required=required, validate=validate.Length(min=least, max=most))


class Integer(fields.Integer):
    """An integer; neither ``true`` nor ``2.0`` is one."""

    def __init__(self) -> None:
        super().__init__(strict=True)


class Number(fields.Raw):
    """A number; a text of digits is none."""

    def __init__(self) -> None:
        super().__init__(validate=_be_number)


class Boolean(fields.Raw):
    """``true`` or ``false``."""

    def __init__(self) -> None:
        super().__init__(validate=_be_boolean)


class Object(fields.Raw):
    """An object of any members. What they mean is not a question of shape."""

    def __init__(self) -> None:
        super().__init__(validate=_be_object)


def _be_number(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError("Not a valid number.")


def _be_boolean(value: object) -> None:
    if not isinstance(value, bool):
        raise ValidationError("Not a valid boolean.")


def _be_object(value: object) -> None:
    if not isinstance(value, Mapping):
        raise ValidationError("Not an object.")
