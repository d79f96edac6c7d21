"""``Record``: typing's NamedTuple, at a tenth of what defining one costs; and what takes the place of no records.

Defining a class is most of our import time, and `import aioice` has a budget; a type checker sees the original.
"""

from __future__ import annotations

from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NamedTuple as Record
else:
    # Each datagram makes several records.
    _new = tuple.__new__

    class _RecordType(type):
        def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace.pop(field) for field in fields if field in namespace}
            getters = {field: property(itemgetter(index)) for index, field in enumerate(fields)}
            names = {"__slots__": (), "__match_args__": fields, "_fields": fields, "_defaults": defaults}
            names["_size"] = len(fields)
            return super().__new__(mcs, name, bases, {**namespace, **getters, **names})

    class Record(tuple, metaclass=_RecordType):
        """Base of tuples with named fields: ``class Point(Record): x: int; y: int = 0``."""

        def __new__(cls, *values: Any, **named: Any) -> Any:
            if named or len(values) != cls._size:
                values = cls._complete(values, named)
            return _new(cls, values)

        @classmethod
        def _complete(cls, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            rest = cls._fields[len(values) :]
            given = {**cls._defaults, **named}
            missing = [field for field in rest if field not in given]
            if missing or len(values) > len(cls._fields) or not named.keys() <= set(rest):
                raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
            return (*values, *(given[field] for field in rest))

        def _replace(self, **named: Any) -> Any:
            return type(self)(**{**dict(zip(self._fields, self, strict=True)), **named})

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            fields = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({fields})"


#: For all who have nothing: an empty dictionary of one's own takes 80 bytes. It never changes; another takes its place.
NOTHING: Mapping[Any, Any] = MappingProxyType({})

__all__ = ["NOTHING", "Record"]
