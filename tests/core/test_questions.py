"""What several want to know is asked once."""

from __future__ import annotations

import itertools
from typing import Any

from aioice.core.machine import Resolve
from aioice.core.questions import Questions


class Asker:
    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.questions = Questions(Resolve, itertools.count(1).__next__, self.outputs)
        self.answers: list[Any] = []

    def ask(self, now: float, key: str = "a") -> None:
        self.questions.ask(now, key, lambda when, answer: self.answers.append((when, answer)))


def test_everybody_gets_the_answer() -> None:
    asker = Asker()
    asker.ask(0.0)
    asker.ask(1.0)
    asker.ask(1.0, "b")
    assert asker.outputs == [Resolve(1, "a"), Resolve(2, "b")]
    asker.questions.answer(2.0, 1, "yes", 10.0)
    assert asker.answers == [(2.0, "yes")] * 2


def test_answers_are_good_for_their_time() -> None:
    asker = Asker()
    asker.ask(0.0)
    asker.questions.answer(2.0, 1, "yes", 10.0)
    asker.ask(9.0)
    assert asker.answers[1:] == [(9.0, "yes")]
    asker.ask(10.0)
    assert asker.outputs == [Resolve(1, "a"), Resolve(2, "a")]


def test_what_is_forgotten_is_asked_again() -> None:
    asker = Asker()
    asker.ask(0.0)
    asker.questions.answer(2.0, 1, "yes", 10.0)
    asker.questions.forget("a")
    asker.questions.forget("never known")
    asker.ask(3.0)
    assert len(asker.outputs) == 2


def test_an_answer_that_nobody_asked_for() -> None:
    asker = Asker()
    asker.questions.answer(0.0, 7, "yes", 10.0)
    asker.ask(0.0)
    asker.questions.answer(1.0, 1, "no", 1.0)
    asker.questions.answer(1.0, 1, "yes", 9.0)
    assert asker.answers == [(1.0, "no")]


def test_an_answer_may_lead_to_another_question() -> None:
    asker = Asker()
    asker.questions.ask(0.0, "a", lambda now, answer: asker.ask(now, answer))
    asker.questions.answer(1.0, 1, "b", 2.0)
    assert asker.outputs[1:] == [Resolve(2, "b")]
