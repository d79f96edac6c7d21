from __future__ import annotations

import asyncio
import gc
import string
from collections.abc import Callable
from typing import Any

import pytest

from aioice import stun, utils
from aioice.stun import Class, Method, Transaction, TransactionError, TransactionFailed, TransactionTimeout

SERVER = ("192.0.2.1", 3478)
KEY = b"key"


def binding_request() -> stun.Message:
    return stun.Message(message_method=Method.BINDING, message_class=Class.REQUEST)


def answer(request: stun.Message, message_class: Class = Class.RESPONSE, **attributes: Any) -> stun.Message:
    named = {name.replace("_", "-"): value for name, value in attributes.items()}
    return stun.Message(Method.BINDING, message_class, request.transaction_id, named)


class Sender:
    """Remembers what is sent, and does something about it."""

    def __init__(self, react: Callable[[stun.Message], None] | None = None) -> None:
        self.sent: list[tuple[stun.Message, tuple[str, int]]] = []
        self.react = react

    def send_stun(self, message: stun.Message, addr: tuple[str, int]) -> None:
        self.sent.append((message, addr))
        if self.react is not None:
            self.react(message)


class Timers:
    """Takes the place of the loop's ``call_later``: nothing waits, the test says when a timer fires."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = asyncio.get_running_loop()
        self.armed: list[tuple[float, asyncio.TimerHandle]] = []
        self._call_later = self.loop.call_later
        monkeypatch.setattr(self.loop, "call_later", self._arm)

    def _arm(self, delay: float, callback: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        handle = self._call_later(1000, callback, *arguments)
        self.armed.append((delay, handle))
        return handle

    @property
    def delays(self) -> list[float]:
        return [delay for delay, _ in self.armed]

    @property
    def pending(self) -> int:
        return sum(not handle.cancelled() for _, handle in self.armed)

    def fire(self) -> None:
        handle = self.armed[-1][1]
        assert not handle.cancelled()
        handle._run()
        handle.cancel()


async def start(transaction: Transaction) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(transaction.run())
    await asyncio.sleep(0)
    return task


@pytest.fixture(autouse=True)
def quiet_loop(caplog: pytest.LogCaptureFixture) -> Any:
    """The loop must have nothing to complain about: no InvalidStateError, no exception that nobody took."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


class TestMessages:
    def test_transaction_id(self) -> None:
        one, other = binding_request(), binding_request()
        assert len(one.transaction_id) == 12
        assert one.transaction_id != other.transaction_id
        assert stun.Message(Method.BINDING, Class.REQUEST, b"0123456789ab").transaction_id == b"0123456789ab"

    def test_parse_message(self) -> None:
        request = binding_request()
        request.attributes["USERNAME"] = "user"
        parsed = stun.parse_message(bytes(request))
        assert isinstance(parsed, stun.Message)
        assert parsed.transaction_id == request.transaction_id
        assert parsed.attributes == {"USERNAME": "user"}
        with pytest.raises(ValueError):
            stun.parse_message(bytes(request)[:-1])

    def test_integrity_key(self) -> None:
        request = binding_request()
        assert stun.parse_message(bytes(request), integrity_key=KEY).attributes == {}
        request.add_message_integrity(KEY)
        assert stun.parse_message(bytes(request), integrity_key=KEY).check_message_integrity(KEY)
        with pytest.raises(ValueError):
            stun.parse_message(bytes(request), integrity_key=b"other")

    def test_names(self) -> None:
        assert stun.COOKIE == 0x2112A442
        assert (stun.RETRY_MAX, stun.RETRY_RTO) == (6, 0.5)
        assert all(hasattr(stun, name) for name in stun.__all__)


class TestErrors:
    def test_failed(self) -> None:
        response = answer(binding_request(), Class.ERROR, ERROR_CODE=(487, "Role Conflict"))
        failed = TransactionFailed(response)
        assert isinstance(failed, TransactionError)
        assert failed.response is response
        assert str(failed) == "STUN transaction failed (487 - Role Conflict)"

    def test_reason_is_escaped(self) -> None:
        response = answer(binding_request(), Class.ERROR, ERROR_CODE=(400, "it's\x1b[31m\n☠" + "x" * 500))
        assert str(TransactionFailed(response)) == (
            "STUN transaction failed (400 - it's\\x1b[31m\\n\\u2620" + "x" * 117 + ")"
        )

    def test_padding_of_the_reason_is_not_shown(self) -> None:
        # coturn's; what stands within the phrase is.
        response = answer(binding_request(), Class.ERROR, ERROR_CODE=(400, "Bad\0Request\0\0\0"))
        assert str(TransactionFailed(response)) == "STUN transaction failed (400 - Bad\\x00Request)"

    def test_failed_without_code(self) -> None:
        response = answer(binding_request())
        assert str(TransactionFailed(response)) == "STUN transaction failed"
        response.unknown_required = (0x7FFF, 1)
        assert str(TransactionFailed(response)) == "STUN transaction failed (unknown attributes: 0x7fff, 0x0001)"

    def test_timeout(self) -> None:
        assert TransactionError.response is None
        assert TransactionTimeout().response is None
        assert str(TransactionTimeout()) == "STUN transaction timed out"


class TestTransaction:
    async def test_answered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, sender, request = Timers(monkeypatch), Sender(), binding_request()
        transaction = Transaction(request, SERVER, sender)
        task = await start(transaction)
        assert sender.sent == [(request, SERVER)]
        response = answer(request)
        transaction.response_received(response, SERVER)
        assert timers.pending == 0
        assert await task == (response, SERVER)

    async def test_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, request = Timers(monkeypatch), binding_request()
        transaction = Transaction(request, SERVER, Sender())
        task = await start(transaction)
        response = answer(request, Class.ERROR, ERROR_CODE=(500, "Server Error"))
        transaction.response_received(response, SERVER)
        with pytest.raises(TransactionFailed) as caught:
            await task
        assert caught.value.response is response
        assert timers.pending == 0

    async def test_unknown_attribute_in_the_answer(self) -> None:
        # RFC 8489 §6.3.3
        request = binding_request()
        transaction = Transaction(request, SERVER, Sender())
        task = await start(transaction)
        data = bytes(answer(request))
        transaction.response_received(stun.parse_message(data[:3] + b"\4" + data[4:] + b"\x7f\xff\0\0"), SERVER)
        with pytest.raises(TransactionFailed, match="0x7fff"):
            await task

    async def test_schedule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # RFC 8489 §6.2.1: 39.5 s
        timers, sender = Timers(monkeypatch), Sender()
        task = await start(Transaction(binding_request(), SERVER, sender))
        for sent in range(1, 8):
            assert len(sender.sent) == sent
            timers.fire()
        assert timers.delays == [0.5, 1, 2, 4, 8, 16, 8]
        assert timers.pending == 0
        with pytest.raises(TransactionTimeout):
            await task
        assert len(sender.sent) == 7

    async def test_few_retransmissions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, sender = Timers(monkeypatch), Sender()
        task = await start(Transaction(binding_request(), SERVER, sender, retransmissions=1))
        timers.fire()
        timers.fire()
        with pytest.raises(TransactionTimeout):
            await task
        assert timers.delays == [0.5, 1]

    async def test_tunables_are_read_when_a_timer_is_armed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, sender = Timers(monkeypatch), Sender()
        monkeypatch.setattr(stun, "RETRY_RTO", 2)
        transaction = Transaction(binding_request(), SERVER, sender)
        monkeypatch.setattr(stun, "RETRY_RTO", 0.25)
        task = await start(transaction)
        timers.fire()
        monkeypatch.setattr(stun, "RETRY_RTO", 1)
        timers.fire()
        monkeypatch.setattr(stun, "RETRY_MAX", 1)
        timers.fire()
        with pytest.raises(TransactionTimeout):
            await task
        assert timers.delays == [0.25, 0.5, 4]

    async def test_real_timers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stun, "RETRY_MAX", 2)
        monkeypatch.setattr(stun, "RETRY_RTO", 0.001)
        sender, request = Sender(), binding_request()
        transaction = Transaction(request, SERVER, sender)
        with pytest.raises(TransactionTimeout):
            await transaction.run()
        assert len(sender.sent) == 3
        transaction.response_received(answer(request), SERVER)

    @pytest.mark.parametrize("retransmissions", [0, 1])
    async def test_answer_and_timer_in_one_turn(self, monkeypatch: pytest.MonkeyPatch, retransmissions: int) -> None:
        # F53
        monkeypatch.setattr(stun, "RETRY_RTO", 0)
        loop = asyncio.get_running_loop()
        request = binding_request()
        sender = Sender(lambda message: [loop.call_soon(*late) for _ in range(2)] and None)
        transaction = Transaction(request, SERVER, sender, retransmissions)
        response = answer(request)
        late = (transaction.response_received, response, SERVER)
        assert await transaction.run() == (response, SERVER)
        assert len(sender.sent) == 1

    async def test_timer_before_answer_in_one_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # F53, the other way round
        timers, request = Timers(monkeypatch), binding_request()
        transaction = Transaction(request, SERVER, Sender(), retransmissions=0)
        task = await start(transaction)
        timers.fire()
        transaction.response_received(answer(request), SERVER)
        transaction.response_received(answer(request, Class.ERROR, ERROR_CODE=(400, "")), SERVER)
        with pytest.raises(TransactionTimeout):
            await task

    async def test_answer_while_sending(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, request = Timers(monkeypatch), binding_request()
        response = answer(request)
        transaction = Transaction(
            request, SERVER, Sender(lambda message: transaction.response_received(response, SERVER))
        )
        assert await transaction.run() == (response, SERVER)
        assert timers.pending == 0

    async def test_answer_before_the_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stun, "RETRY_RTO", 0.001)
        request = binding_request()
        transaction = Transaction(request, SERVER, Sender(), retransmissions=0)
        transaction.response_received(answer(request), SERVER)
        with pytest.raises(TransactionTimeout):
            await transaction.run()

    async def test_cancelled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, sender, request = Timers(monkeypatch), Sender(), binding_request()
        transaction = Transaction(request, SERVER, sender)
        task = await start(transaction)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert timers.pending == 0
        transaction.response_received(answer(request), SERVER)
        assert len(sender.sent) == 1

    async def test_cancelled_when_it_has_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, request = Timers(monkeypatch), binding_request()
        transaction = Transaction(request, SERVER, Sender())
        task = await start(transaction)
        transaction.response_received(answer(request, Class.ERROR, ERROR_CODE=(400, "")), SERVER)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert timers.pending == 0

    async def test_sending_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # F51
        timers = Timers(monkeypatch)

        def closed(message: stun.Message) -> None:
            raise OSError("closed")

        with pytest.raises(OSError, match="closed"):
            await Transaction(binding_request(), SERVER, Sender(closed)).run()
        sender = Sender()
        task = await start(Transaction(binding_request(), SERVER, sender))
        sender.react = closed
        timers.fire()
        with pytest.raises(OSError, match="closed"):
            await task
        assert timers.pending == 0

    async def test_what_is_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timers, request = Timers(monkeypatch), binding_request()
        transaction = Transaction(request, SERVER, Sender())
        task = await start(transaction)
        for addr in (("192.0.2.1", 3479), ("192.0.2.2", 3478), ("example.org", 3478)):
            transaction.response_received(answer(request), addr)
        for message_class in (Class.REQUEST, Class.INDICATION):
            transaction.response_received(answer(request, message_class), SERVER)
        assert not task.done() and timers.pending == 1
        task.cancel()

    @pytest.mark.parametrize(
        ("addr", "source"),
        [
            (("2001:DB8::1", 3478), ("2001:db8:0:0::1", 3478, 0, 0)),
            (("::ffff:192.0.2.1", 3478), ("::FFFF:c000:0201", 3478)),
            (("localhost", 3478), ("localhost", 3478)),
        ],
    )
    async def test_address_in_any_spelling(self, addr: tuple[str, int], source: Any) -> None:
        request, response = binding_request(), None
        transaction = Transaction(request, addr, Sender())
        task = await start(transaction)
        response = answer(request)
        transaction.response_received(response, source)
        assert await task == (response, source)


class TestAuthentication:
    async def test_only_signed_answers_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # RFC 8489 §9.1.4
        timers, sender, request = Timers(monkeypatch), Sender(), binding_request()
        transaction = Transaction(request, SERVER, sender, integrity_key=KEY)
        task = await start(transaction)
        forged = answer(request)
        forged.add_message_integrity(b"other")
        for response in (answer(request), forged, answer(request, Class.ERROR, ERROR_CODE=(401, ""))):
            transaction.response_received(response, SERVER)
        assert not task.done()
        timers.fire()
        assert len(sender.sent) == 2
        response = answer(request)
        response.add_message_integrity(KEY)
        transaction.response_received(stun.parse_message(bytes(response)), SERVER)
        message, _ = await task
        assert message.transaction_id == request.transaction_id

    @pytest.mark.parametrize("code", [401, 438])
    async def test_challenges_need_no_signature(self, code: int) -> None:
        # RFC 8489 §9.2.5
        request = binding_request()
        transaction = Transaction(request, SERVER, Sender(), integrity_key=KEY, long_term_credential=True)
        task = await start(transaction)
        transaction.response_received(answer(request, Class.ERROR, ERROR_CODE=(400, "")), SERVER)
        transaction.response_received(answer(request, ERROR_CODE=(code, "")), SERVER)
        assert not task.done()
        transaction.response_received(answer(request, Class.ERROR, ERROR_CODE=(code, "")), SERVER)
        with pytest.raises(TransactionFailed) as caught:
            await task
        assert caught.value.response.error_code == code


class TestUtils:
    def test_random_string(self) -> None:
        drawn = "".join(utils.random_string(22) for _ in range(500))
        assert len(drawn) == 11000
        assert set(drawn) == set(string.ascii_letters + string.digits)
        assert utils.random_string(0) == ""

    def test_random_string_is_fair(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every byte that is taken stands for a character as often as every other."""
        monkeypatch.setattr(utils.os, "urandom", lambda size: bytes(range(256)))
        drawn = utils.random_string(4 * 62)
        assert {drawn.count(character) for character in drawn} == {4}

    def test_random_string_draws_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        draws = [b"\xff" * 8, b"\xff\0", b"\1\2", b"\3\4", b"\5"]
        monkeypatch.setattr(utils.os, "urandom", lambda size: draws.pop(0))
        assert len(utils.random_string(4)) == 4

    def test_random_transaction_id(self) -> None:
        assert len(utils.random_transaction_id()) == 12
        assert utils.random_transaction_id() != utils.random_transaction_id()
