"""A STUN server (RFC 8489) for the simulated internet, which fails in every way it is told to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..core.demux import StreamFramer, is_channel_data, pad
from ..core.machine import Address
from ..core.message import Class, Message, Method, parse_message
from .hosts import Listener

if TYPE_CHECKING:
    from ..core.machine import Reason
    from .hosts import Stream

REASONS = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthenticated",
    403: "Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    486: "Allocation Quota Reached",
    500: "Server Error",
    508: "Insufficient Capacity",
}

Attributes = dict[str, Any]


class Datagrams(Protocol):
    """What a server needs of a datagram socket."""

    local: Address
    on_datagram: Callable[[Address, bytes], None]
    on_error: Callable[[Address, Reason], None]

    def send(self, dst: Address, data: bytes) -> object: ...

    def close(self) -> None: ...


class Time(Protocol):
    """What a server needs of a world."""

    @property
    def now(self) -> float: ...

    def after(self, delay: float, callback: Callable[..., object], *args: Any) -> object: ...

    def random_bytes(self, size: int) -> bytes: ...


class ServerHost(Protocol):
    """What a server needs of the host that it runs on: a simulated one, or this machine."""

    @property
    def world(self) -> Time: ...

    @property
    def listeners(self) -> MutableMapping[Address, Any]: ...

    def bind(self, address: str, port: int = ...) -> Datagrams: ...

    def listen(self, listener: Listener) -> None: ...


class Key(NamedTuple):
    """What requests of a user are signed with, and so their answers."""

    user: str
    value: bytes
    sha256: bool


class Refusal(Exception):
    """A request is answered by an error response."""

    def __init__(self, code: int, attributes: Mapping[str, Any] | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.attributes = dict(attributes or {})


class Rule:
    """Requests of some methods (all, if none are named) are refused, or passed over in silence."""

    def __init__(self, methods: tuple[Method, ...], refusal: Refusal | None, times: int | None) -> None:
        self._methods = methods
        self.refusal = refusal
        self._left = times

    def takes(self, method: int) -> bool:
        if self._left == 0 or (self._methods and method not in self._methods):
            return False
        if self._left is not None:
            self._left -= 1
        return True


class Client:
    """Who talks to the server: the 5-tuple, and the way back."""

    def __init__(self, transport: str, address: Address, send: Callable[[bytes], object]) -> None:
        self.key = (transport, address)
        self.address = address
        self.send = send


class StunServer:
    """Answers Binding requests over UDP and TCP."""

    software = "aioice.sim"

    def __init__(self, host: ServerHost, address: str, port: int) -> None:
        self.host = host
        self.world = host.world
        self.address: Address = (address, port)
        #: How long it thinks before it answers a request, and how much longer before one of these methods.
        self.delay = 0.0
        self.delays: dict[int, float] = {}
        #: Changes an answer before it is signed: ``rewrite(request, response)``.
        self.rewrite: Callable[[Message, Message], None] | None = None
        #: Requests with their time, method and error code: 0 for success, None for silence.
        self.log: list[tuple[float, Method, int | None]] = []
        self.malformed = 0
        self.streams: list[Stream] = []
        self._rules: list[Rule] = []
        self._socket: Datagrams | None = None
        self.start()

    # ----------------------------------------------------------------------------------------- told to misbehave

    def silence(self, *methods: Method, times: int | None = None) -> None:
        """Do not answer requests of these methods (of all, if none are given): for ever, or some times."""
        self._rules.append(Rule(methods, None, times))

    def refuse(
        self, code: int, *methods: Method, times: int | None = None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Answer requests of these methods (of all, if none are given) with an error.

        A TURN server looks at the credentials first, so that the error is signed (but 401 and 438, which never are).
        """
        self._rules.append(Rule(methods, Refusal(code, attributes), times))

    def recover(self) -> None:
        """Take back all of :meth:`silence` and :meth:`refuse`."""
        self._rules.clear()

    def start(self) -> None:
        """Open the ports; the constructor has done it."""
        self._socket = self.host.bind(*self.address)
        self._socket.on_datagram = self._datagram
        for listener in self._listeners():
            self.host.listen(listener)

    def stop(self) -> None:
        """The server's process ends: ports are closed, streams too."""
        if self._socket is not None:
            self._socket.close()
        for listener in self._listeners():
            self.host.listeners.pop(listener.local, None)
        self.close_streams()

    def close_streams(self) -> None:
        """All TCP and TLS connections end."""
        while self.streams:
            self.streams.pop().close()

    def count(self, method: Method) -> int:
        """How many requests of a method came in, retransmissions included."""
        return sum(known == method for _, known, _ in self.log)

    # ------------------------------------------------------------------------------------------------ what comes in

    def _listeners(self) -> list[Listener]:
        return [Listener(self.address, self._accept)]

    def _accept(self, stream: Stream) -> None:
        client, framer = Client("tcp", stream.peer, lambda data: stream.send(pad(data))), StreamFramer()
        self.streams.append(stream)
        stream.on_data = lambda data: self._stream_data(client, stream, framer, data)
        stream.on_close = lambda: self._gone(client, stream)

    def _stream_data(self, client: Client, stream: Stream, framer: StreamFramer, data: bytes) -> None:
        try:
            frames = framer.feed(data)
        except ValueError:
            self.malformed += 1
            stream.close()
            self._gone(client, stream)
            return
        for frame in frames:
            self._handle(client, frame)

    def _gone(self, client: Client, stream: Stream) -> None:
        if stream in self.streams:
            self.streams.remove(stream)

    def _datagram(self, peer: Address, data: bytes) -> None:
        socket = self._socket
        if socket is not None:
            self._handle(Client("udp", peer, lambda answer: socket.send(peer, answer)), data)

    def _handle(self, client: Client, data: bytes) -> None:
        if is_channel_data(data):
            self._channel_data(client, data)
            return
        try:
            message = parse_message(data)
            method = Method(message.message_method)
        except ValueError:
            self.malformed += 1
            return
        if message.message_class == Class.INDICATION:
            self._indication(client, message)
        elif message.message_class == Class.REQUEST:
            self.log.append((self.world.now, method, self._request(client, message)))

    def _request(self, client: Client, request: Message) -> int | None:
        """Answer a request; returns what stands in the log."""
        rule = next((rule for rule in self._rules if rule.takes(request.message_method)), None)
        code: int | None = None
        if rule is None or rule.refusal is not None:
            key: Key | None = None
            try:
                key = self._authenticate(client, request)
                if rule is not None and rule.refusal is not None:
                    raise rule.refusal
                unknown = [*request.unknown_required, *self._unknown(request)]
                if unknown:
                    raise Refusal(420, {"UNKNOWN-ATTRIBUTES": unknown})
                response, code = self._message(request, Class.RESPONSE, self._answer(client, request)), 0
            except Refusal as refusal:
                response, code = self._refusal(request, refusal), refusal.code
            self._send(client, request, response, None if code in (401, 438) else key)
        return code

    def _message(self, request: Message, message_class: Class, attributes: Attributes) -> Message:
        return Message(request.message_method, message_class, request.transaction_id, attributes)

    def _refusal(self, request: Message, refusal: Refusal) -> Message:
        attributes: Attributes = {"ERROR-CODE": (refusal.code, REASONS.get(refusal.code, "Error"))}
        if refusal.code in (401, 438):
            attributes.update(self._challenge())
        return self._message(request, Class.ERROR, attributes | refusal.attributes)

    def _send(self, client: Client, request: Message, response: Message, key: Key | None) -> None:
        response.attributes["SOFTWARE"] = self.software
        if self.rewrite is not None:
            self.rewrite(request, response)
        if key is None:
            response.add_fingerprint()
        elif key.sha256:
            response.add_message_integrity_sha256(key.value)
        else:
            response.add_message_integrity(key.value)
        delay = self.delay + self.delays.get(request.message_method, 0.0)
        if delay:
            self.world.after(delay, client.send, bytes(response))
        else:
            client.send(bytes(response))

    # -------------------------------------------------------------------------------- what a kind of server does

    def _authenticate(self, client: Client, request: Message) -> Key | None:
        """The key that the request is signed with; None where none is asked for."""
        return None

    def _unknown(self, request: Message) -> list[int]:
        """Attributes that are to be taken for unknown."""
        return []

    def _challenge(self) -> Attributes:
        return {}

    def _answer(self, client: Client, request: Message) -> Attributes:
        if request.message_method != Method.BINDING:
            raise Refusal(400)
        return {"XOR-MAPPED-ADDRESS": client.address}

    def _indication(self, client: Client, message: Message) -> None:
        pass

    def _channel_data(self, client: Client, data: bytes) -> None:
        self.malformed += 1
