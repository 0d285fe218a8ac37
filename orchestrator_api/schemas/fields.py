"""Fields that take a JSON value for what it is: no ``"1"`` for 1, no ``"yes"`` for true, no 1.5 for 1.

A field is also given, as JSON Schema ``keywords``, what the domain checks of its
value later on: the OpenAPI document tells it, and nothing is checked twice.

A body of 8 MiB can be wrong in a million places, and marshmallow takes microseconds to
tell of each. What comes after the first ``MAX_WRONG`` of a list is told in one word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from marshmallow import Schema, ValidationError, fields, pre_load, validate

from shared.domain.models import Json

KEYWORDS = "keywords"
"""The name among a field's metadata under which the OpenAPI document finds them."""
NO_NUL = "^[^\\u0000]*$"
"""What every text of a body matches, since PostgreSQL has no NUL."""
JSON_OBJECT: Mapping[str, Json] = {"$ref": "#/components/schemas/JsonObject"}
"""An object of any members, as the OpenAPI document has it."""
MAX_WRONG = 1_000
MAX_UNKNOWN = 100
WRONG_TOO = "Does not have the right shape either."


class Known(Schema):
    """An object whose members are known. Of ``MAX_UNKNOWN`` others none is told by name."""

    @pre_load
    def refuse_flood(self, value: object, **_: object) -> object:
        """Count the members before looking at any."""
        if isinstance(value, Mapping) and len(value) > len(self.fields) + MAX_UNKNOWN:
            raise ValidationError(f"Has {len(value)} members, of which at most {len(self.fields)} are known.")
        return value


class Text(fields.String):
    """A text, of at least one character, and at most ``most`` if that is given."""

    def __init__(
        self, *, most: int | None = None, least: int = 1, required: bool = False, **keywords: Json
    ) -> None:
        super().__init__(
            required=required,
            validate=validate.Length(min=least, max=most),
            metadata={KEYWORDS: {"pattern": NO_NUL, **keywords}},
        )


class Integer(fields.Integer):
    """An integer; neither ``true`` nor ``2.0`` is one."""

    def __init__(self, **keywords: Json) -> None:
        super().__init__(strict=True, metadata={KEYWORDS: keywords})


class Number(fields.Raw):
    """A number; a text of digits is none."""

    def __init__(self, **keywords: Json) -> None:
        super().__init__(validate=_be_number, metadata={KEYWORDS: {"type": "number", **keywords}})


class Boolean(fields.Raw):
    """``true`` or ``false``."""

    def __init__(self) -> None:
        super().__init__(validate=_be_boolean, metadata={KEYWORDS: {"type": "boolean"}})


class Object(fields.Raw):
    """An object of any members. What they mean is not a question of shape; ``keywords`` tell of it."""

    def __init__(self, **keywords: Json) -> None:
        told = {"type": "object", **keywords} if keywords else JSON_OBJECT
        super().__init__(validate=_be_object, metadata={KEYWORDS: told})


class Many(fields.List[Mapping[str, object]]):
    """A list of objects of one schema, up to the 10,000 steps of the largest DAG.

    marshmallow takes 30 µs for a step of two members. So it is asked only about those
    objects that a short look at their members, by the same schema, does not find right.
    """

    def __init__(
        self,
        schema: type[Schema],
        *,
        required: bool = False,
        length: validate.Length | None = None,
        **keywords: Json,
    ) -> None:
        super().__init__(
            fields.Nested(schema), required=required, validate=length, metadata={KEYWORDS: keywords}
        )
        self._schema_class = schema
        self._length = length

    @cached_property
    def _is_plain(self) -> Callable[[object], bool]:
        return _plainly(self._schema_class())

    def _deserialize(
        self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object
    ) -> list[Mapping[str, object] | None]:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        if self._length is not None:
            # Before anything is said of a million of them.
            self._length(value)
        mistakes: dict[int, object] = {}
        for index, each in enumerate(value):
            if not self._is_plain(each):
                if len(mistakes) >= MAX_WRONG:
                    mistakes[index] = [WRONG_TOO]
                    continue
                try:
                    self.inner.deserialize(each)
                except ValidationError as error:
                    mistakes[index] = error.messages
        if mistakes:
            raise ValidationError(mistakes)
        return value


def _plainly(schema: Schema) -> Callable[[object], bool]:
    """Make a function that tells whether a JSON value has, at the first look, the shape of ``schema``."""
    looks = {name: _look(field) for name, field in schema.fields.items()}
    required = {name for name, field in schema.fields.items() if field.required}

    def is_plain(value: object) -> bool:
        return (
            type(value) is dict
            and all(name in looks and looks[name](member) for name, member in value.items())
            and required <= value.keys()
        )

    return is_plain


def _look(field: fields.Field[Any]) -> Callable[[object], bool]:
    if isinstance(field, fields.Nested):
        return _plainly(field.schema)
    kinds = next((kinds for cls, kinds in _KINDS.items() if isinstance(field, cls)), ())

    def is_right(value: object) -> bool:
        if type(value) not in kinds:
            return False
        try:
            for validator in field.validators:
                validator(value)
        except ValidationError:
            return False
        return True

    return is_right


_KINDS: Mapping[type, tuple[type, ...]] = MappingProxyType(
    {Text: (str,), Integer: (int,), Number: (int, float), Boolean: (bool,), Object: (dict,)}
)


def _be_number(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError("Not a valid number.")


def _be_boolean(value: object) -> None:
    if not isinstance(value, bool):
        raise ValidationError("Not a valid boolean.")


def _be_object(value: object) -> None:
    if not isinstance(value, Mapping):
        raise ValidationError("Not an object.")
