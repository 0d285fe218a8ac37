"""A shape is a DAG that can be published."""

from __future__ import annotations

import pytest

from bench.shapes import LARGE, SHAPES, Shape
from shared.domain.definition import build

ALL = [*SHAPES.values(), *(shape for pair in LARGE.values() for shape in pair), SHAPES["chain40"].unknown]


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_a_shape_is_a_valid_dag_with_its_number_of_steps(shape: Shape) -> None:
    spec = build(shape.definition(), check_uses=lambda _uses, _params: [], pools={"default"})
    assert len(spec.steps) * shape.runs == shape.steps


def test_the_steps_of_a_layer_follow_every_step_of_the_layer_before() -> None:
    edges = Shape(name="small", layers=(1, 2, 1), what="").definition()["edges"]
    assert edges == [
        {"from": "s0000-0000", "to": "s0001-0000"},
        {"from": "s0000-0000", "to": "s0001-0001"},
        {"from": "s0001-0000", "to": "s0002-0000"},
        {"from": "s0001-0001", "to": "s0002-0000"},
    ]
