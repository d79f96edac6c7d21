"""What is asked of the world once, however many want to know: names and credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    #: Gets the time and the answer.
    Receiver = Callable[[float, Any], None]


class Questions:
    """``question(query, key)`` makes the output that asks; each answer is kept as long as it is good for."""

    __slots__ = ("_question", "_next_query", "_outputs", "_waiting", "_queries", "_known")

    def __init__(self, question: Callable[[int, Any], Any], next_query: Callable[[], int], outputs: list[Any]) -> None:
        self._question = question
        self._next_query = next_query
        self._outputs = outputs
        self._waiting: dict[Hashable, list[Receiver]] = {}
        self._queries: dict[int, Hashable] = {}
        #: Answers, and until when they are good.
        self._known: dict[Hashable, tuple[Any, float]] = {}

    def ask(self, now: float, key: Hashable, receiver: Receiver) -> None:
        """Call ``receiver`` with the answer, at once if it is known."""
        answer, until = self._known.get(key, (None, now))
        if now < until:
            receiver(now, answer)
        elif key in self._waiting:
            self._waiting[key].append(receiver)
        else:
            self._waiting[key] = [receiver]
            query = self._next_query()
            self._queries[query] = key
            self._outputs.append(self._question(query, key))

    def answer(self, now: float, query: int, answer: Any, until: float) -> None:
        """The world has answered; the answer is good ``until`` then."""
        if query not in self._queries:
            return
        key = self._queries.pop(query)
        self._known[key] = (answer, until)
        for receiver in self._waiting.pop(key):
            receiver(now, answer)

    def forget(self, key: Hashable) -> None:
        """Ask again when somebody wants to know."""
        self._known.pop(key, None)
