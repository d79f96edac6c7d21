"""Records are named tuples, made cheaply."""

from __future__ import annotations

import copy
import pickle

import pytest

from aioice.core.machine import Tunables
from aioice.core.record import Record


class Point(Record):
    """A place."""

    x: int
    y: int = 5
    name: str = "nowhere"

    @property
    def sum(self) -> int:
        return self.x + self.y


class Empty(Record):
    pass


class TestConstruction:
    @pytest.mark.parametrize(
        "point",
        [Point(1, 2, "here"), Point(1, 2, name="here"), Point(x=1, y=2, name="here"), Point(1, name="here", y=2)],
    )
    def test_by_position_and_by_name(self, point: Point) -> None:
        assert (point.x, point.y, point.name) == (1, 2, "here")

    def test_defaults(self) -> None:
        assert Point(1) == Point(1, 5) == Point(1, 5, "nowhere") == (1, 5, "nowhere")
        assert Point(1, name="here") == (1, 5, "here")
        assert Empty() == ()

    @pytest.mark.parametrize(
        "values, named",
        [
            ((), {}),
            ((), {"y": 1}),
            ((1, 2, "here", 4), {}),
            ((1,), {"z": 1}),
            ((1,), {"x": 1}),
            ((1, 2, "here"), {"name": "there"}),
            ((1, 2, "here"), {"z": 1}),
        ],
    )
    def test_a_wrong_call(self, values: tuple[object, ...], named: dict[str, object]) -> None:
        make: type = Point
        with pytest.raises(TypeError, match="^Point takes x, y, name$"):
            make(*values, **named)


class TestTuple:
    def test_is_one(self) -> None:
        point = Point(1, 2)
        x, y, name = point
        assert (x, y, name) == point == (1, 2, "nowhere") and hash(point) == hash((1, 2, "nowhere"))
        assert isinstance(point, tuple) and len(point) == 3 and point[1] == 2

    def test_cannot_be_changed(self) -> None:
        point = Point(1)
        for name in ("x", "z"):
            with pytest.raises(AttributeError):
                setattr(point, name, 2)

    def test_has_no_dictionary(self) -> None:
        assert not hasattr(Point(1), "__dict__")

    def test_replace(self) -> None:
        assert Point(1, 2)._replace(y=7) == (1, 7, "nowhere")
        assert type(Point(1)._replace()) is Point
        with pytest.raises(TypeError, match="Point takes"):
            Point(1)._replace(z=2)

    def test_patterns(self) -> None:
        match Point(1, 2):
            case Point(x, 2, name="nowhere"):
                assert x == 1

    def test_text(self) -> None:
        assert repr(Point(1, name="a'b")) == """Point(x=1, y=5, name="a'b")"""
        assert repr(Empty()) == "Empty()"

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda point: pickle.loads(pickle.dumps(point))])
    def test_copies(self, copied: object) -> None:
        assert callable(copied)
        point = copied(Point(1, 2))
        assert type(point) is Point and point == Point(1, 2)

    def test_methods_and_fields_side_by_side(self) -> None:
        assert Point(1).sum == 6
        assert Point._fields == ("x", "y", "name") and Point.__doc__ == "A place."

    def test_as_the_machines_use_it(self) -> None:
        # RFC 8489 §6.2.1: (1 + 2 + 4 + 8 + 16 + 32) × 500 ms and 16 × 500 ms
        assert Tunables().transaction_timeout == 39.5
        assert Tunables(retry_max=1)._replace(retry_rto=1.0).transaction_timeout == 3.0
