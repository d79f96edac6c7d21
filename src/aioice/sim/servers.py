"""STUN and TURN servers (RFC 8489, RFC 8656) for the simulated internet, which fail in every way they are told to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.demux import CHANNEL_MAX, CHANNEL_MIN, StreamFramer, is_channel_data, pad
from ..core.machine import Address
from ..core.message import Class, Message, Method, parse_message
from .hosts import Listener, Socket
from .links import is_ipv6

if TYPE_CHECKING:
    from ..core.machine import Reason
    from .hosts import Host, Stream

#: RFC 8656 §3.2, §9, §12: allocations, permissions and channels live this long unless they are refreshed.
LIFETIME = 600
PERMISSION_LIFETIME = 300.0
CHANNEL_LIFETIME = 600.0
#: RFC 8656 §7.2: no more than an hour is granted.
MAX_LIFETIME = 3600
#: RFC 8656 §12: an expired channel number (and its peer) stays unused for another five minutes.
CHANNEL_COOLDOWN = 300.0
#: RFC 8656 §18.8: UDP, the only transport that is relayed here.
UDP_PROTOCOL = 17
#: RFC 8656 §18.6: address families; the attribute has them in its first byte.
IPV4, IPV6 = 1, 2

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

    def __init__(self, host: Host, address: str, port: int) -> None:
        self.host = host
        self.world = host.world
        self.address: Address = (address, port)
        #: How long it thinks before it answers a request.
        self.delay = 0.0
        #: Changes an answer before it is signed: ``rewrite(request, response)``.
        self.rewrite: Callable[[Message, Message], None] | None = None
        #: Requests with their time, method and error code: 0 for success, None for silence.
        self.log: list[tuple[float, Method, int | None]] = []
        self.malformed = 0
        self.streams: list[Stream] = []
        self._rules: list[Rule] = []
        self._socket: Socket | None = None
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
            key = b""
            try:
                key = self._authenticate(client, request)
                if rule is not None and rule.refusal is not None:
                    raise rule.refusal
                if request.unknown_required:
                    raise Refusal(420, {"UNKNOWN-ATTRIBUTES": list(request.unknown_required)})
                response, code = self._message(request, Class.RESPONSE, self._answer(client, request)), 0
            except Refusal as refusal:
                response, code = self._refusal(request, refusal), refusal.code
            self._send(client, request, response, b"" if code in (401, 438) else key)
        return code

    def _message(self, request: Message, message_class: Class, attributes: Attributes) -> Message:
        return Message(request.message_method, message_class, request.transaction_id, attributes)

    def _refusal(self, request: Message, refusal: Refusal) -> Message:
        attributes: Attributes = {"ERROR-CODE": (refusal.code, REASONS.get(refusal.code, "Error"))}
        if refusal.code in (401, 438):
            attributes.update(self._challenge())
        return self._message(request, Class.ERROR, attributes | refusal.attributes)

    def _send(self, client: Client, request: Message, response: Message, key: bytes) -> None:
        response.attributes["SOFTWARE"] = self.software
        if self.rewrite is not None:
            self.rewrite(request, response)
        if key:
            response.add_message_integrity(key)
        else:
            response.add_fingerprint()
        if self.delay:
            self.world.after(self.delay, client.send, bytes(response))
        else:
            client.send(bytes(response))

    # -------------------------------------------------------------------------------- what a kind of server does

    def _authenticate(self, client: Client, request: Message) -> bytes:
        """The key that the request is signed with, empty where none is asked for."""
        return b""

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


class Allocation:
    """What the server knows of one client's relay."""

    def __init__(self, server: TurnServer, client: Client, username: str, transaction_id: bytes) -> None:
        self.server = server
        self.world = server.world
        self.client = client
        self.username = username
        #: RFC 8656 §7.2: a retransmitted Allocate request gets the same answer.
        self.transaction_id = transaction_id
        self.answer: Attributes = {}
        self.expires = 0.0
        self.sockets: dict[int, Socket] = {}
        self.permissions: dict[str, float] = {}
        self.channels: dict[int, tuple[Address, float]] = {}

    def add_relay(self, family: int, host: str) -> None:
        self.sockets[family] = socket = self.server.host.bind(host)
        socket.on_datagram = self._from_peer
        socket.on_error = self._peer_error

    @property
    def relayed(self) -> list[Address]:
        return [socket.local for socket in self.sockets.values()]

    def permit(self, host: str) -> None:
        self.permissions[host] = self.world.now + PERMISSION_LIFETIME

    def permitted(self, host: str) -> bool:
        return self.permissions.get(host, 0.0) > self.world.now

    def bind_channel(self, number: int, peer: Address) -> None:
        now = self.world.now
        for other, (bound, expires) in self.channels.items():
            if (other == number) != (bound == peer) and now < expires + CHANNEL_COOLDOWN:
                raise Refusal(400)
        self.channels[number] = (peer, now + CHANNEL_LIFETIME)
        self.permit(peer[0])

    def channel_peer(self, number: int) -> Address | None:
        peer, expires = self.channels.get(number, (None, 0.0))
        return peer if expires > self.world.now else None

    def to_peer(self, peer: Address, data: bytes) -> None:
        socket = self.sockets.get(family_of(peer))
        if socket is not None and self.permitted(peer[0]):
            socket.send(peer, data)
        else:
            self.server.unpermitted += 1

    def _from_peer(self, peer: Address, data: bytes) -> None:
        if self.server.allocation(self.client) is not self or not self.permitted(peer[0]):
            self.server.unpermitted += 1
            return
        for number, (bound, expires) in self.channels.items():
            if bound == peer and expires > self.world.now:
                self.client.send(number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data)
                return
        self.server.indicate(self.client, {"XOR-PEER-ADDRESS": peer, "DATA": data})

    def _peer_error(self, peer: Address, reason: Reason) -> None:
        """RFC 8656 §11.5: an ICMP message goes to the client in a Data indication (here always port unreachable)."""
        if self.server.allocation(self.client) is self:
            icmp = bytes([0, 0, 3, 3]) if family_of(peer) == IPV4 else bytes([0, 0, 1, 4])
            self.server.indicate(self.client, {"XOR-PEER-ADDRESS": peer, "ICMP": icmp + bytes(4)})

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close()


class TurnServer(StunServer):
    """Relays for clients that know the long-term credentials; also a STUN server."""

    def __init__(
        self,
        host: Host,
        address: str,
        port: int,
        users: dict[str, str],
        relays: tuple[str, ...],
        tls_port: int,
        certificate: str,
    ) -> None:
        self.users = users
        self.realm = "sim"
        self.relays = {IPV6 if is_ipv6(relay) else IPV4: relay for relay in reversed(relays)}
        self.tls_address: Address = (address, tls_port)
        self.certificate = certificate
        #: How long allocations live that ask for nothing else.
        self.lifetime = LIFETIME
        #: So many allocations for each user, then 486.
        self.quota: int | None = None
        #: Peers that clients may not reach: 403.
        self.forbidden: set[str] = set()
        #: Datagrams, in both directions, without a permission or an allocation.
        self.unpermitted = 0
        self.allocations: dict[tuple[str, Address], Allocation] = {}
        self.nonce = host.world.random_bytes(8).hex()
        super().__init__(host, address, port)

    def expire_nonce(self) -> None:
        """The nonce is stale from now on (438)."""
        self.nonce = self.world.random_bytes(8).hex()

    def forget(self) -> None:
        """Lose all allocations and the nonce, as a restarted server has."""
        for allocation in self.allocations.values():
            allocation.close()
        self.allocations.clear()
        self.expire_nonce()

    def stop(self) -> None:
        super().stop()
        self.forget()

    def allocation(self, client: Client) -> Allocation | None:
        """The allocation of a client, if it still lives."""
        for key in [key for key, known in self.allocations.items() if known.expires <= self.world.now]:
            self.allocations.pop(key).close()
        return self.allocations.get(client.key)

    def indicate(self, client: Client, attributes: Attributes) -> None:
        """Send a Data indication."""
        client.send(bytes(Message(Method.DATA, Class.INDICATION, self.world.random_bytes(12), attributes)))

    # ------------------------------------------------------------------------------------------------ what comes in

    def _listeners(self) -> list[Listener]:
        return [*super()._listeners(), Listener(self.tls_address, self._accept, self.certificate)]

    def _gone(self, client: Client, stream: Stream) -> None:
        super()._gone(client, stream)
        allocation = self.allocations.pop(client.key, None)
        if allocation is not None:
            allocation.close()

    def _challenge(self) -> Attributes:
        return {"REALM": self.realm, "NONCE": self.nonce.encode()}

    def _authenticate(self, client: Client, request: Message) -> bytes:
        """RFC 8489 §9.2.4."""
        if request.message_method == Method.BINDING:
            return b""
        attributes = request.attributes
        if "MESSAGE-INTEGRITY" not in attributes:
            raise Refusal(401)
        if any(name not in attributes for name in ("USERNAME", "REALM", "NONCE")):
            raise Refusal(400)
        username: str = attributes["USERNAME"]
        key = hashlib.md5(f"{username}:{self.realm}:{self.users.get(username)}".encode()).digest()
        if attributes["NONCE"] != self.nonce.encode():
            raise Refusal(438)
        if username not in self.users or not request.check_message_integrity(key):
            raise Refusal(401)
        return key

    def _answer(self, client: Client, request: Message) -> Attributes:
        method = request.message_method
        if method == Method.BINDING:
            return super()._answer(client, request)
        allocation = self.allocation(client)
        if method == Method.ALLOCATE:
            return self._allocate(client, allocation, request)
        if allocation is None:
            raise Refusal(437)
        if allocation.username != request.attributes["USERNAME"]:
            raise Refusal(441)
        if method == Method.REFRESH:
            return self._refresh(allocation, request)
        if method == Method.CREATE_PERMISSION:
            allocation.permit(self._peer(allocation, request)[0])
            return {}
        if method == Method.CHANNEL_BIND:
            number = request.attributes.get("CHANNEL-NUMBER", 0)
            if not CHANNEL_MIN <= number <= CHANNEL_MAX:
                raise Refusal(400)
            allocation.bind_channel(number, self._peer(allocation, request))
            return {}
        raise Refusal(400)

    def _peer(self, allocation: Allocation, request: Message) -> Address:
        """The peer that a request names: the first, when it names several."""
        peer: Address | None = request.attributes.get("XOR-PEER-ADDRESS")
        if peer is None:
            raise Refusal(400)
        if family_of(peer) not in allocation.sockets:
            raise Refusal(443)
        if peer[0] in self.forbidden:
            raise Refusal(403)
        return peer

    def _granted(self, request: Message) -> int:
        return min(max(int(request.attributes.get("LIFETIME", 0)), self.lifetime), MAX_LIFETIME)

    def _allocate(self, client: Client, known: Allocation | None, request: Message) -> Attributes:
        """RFC 8656 §7.2."""
        attributes = request.attributes
        username = attributes["USERNAME"]
        if known is not None:
            if known.transaction_id == request.transaction_id:
                return known.answer
            raise Refusal(437)
        if "REQUESTED-TRANSPORT" not in attributes:
            raise Refusal(400)
        if attributes["REQUESTED-TRANSPORT"] >> 24 != UDP_PROTOCOL:
            raise Refusal(442)
        family = attributes.get("REQUESTED-ADDRESS-FAMILY", IPV4 << 24) >> 24
        additional = attributes.get("ADDITIONAL-ADDRESS-FAMILY", 0) >> 24
        if family not in self.relays:
            raise Refusal(440)
        used = sum(other.username == username for other in self.allocations.values())
        if self.quota is not None and used >= self.quota:
            raise Refusal(486)
        allocation = Allocation(self, client, username, request.transaction_id)
        for wanted in {family: 0, additional: 0}:
            if wanted in self.relays:
                allocation.add_relay(wanted, self.relays[wanted])
        lifetime = self._granted(request)
        allocation.expires = self.world.now + lifetime
        allocation.answer = {
            "XOR-RELAYED-ADDRESS": allocation.relayed[0],
            "LIFETIME": lifetime,
            "XOR-MAPPED-ADDRESS": client.address,
        }
        self.allocations[client.key] = allocation
        return allocation.answer

    def _refresh(self, allocation: Allocation, request: Message) -> Attributes:
        """RFC 8656 §8.2."""
        family = request.attributes.get("REQUESTED-ADDRESS-FAMILY")
        if family is not None and family >> 24 not in allocation.sockets:
            raise Refusal(443)
        if request.attributes.get("LIFETIME") == 0:
            del self.allocations[allocation.client.key]
            allocation.close()
            return {"LIFETIME": 0}
        lifetime = self._granted(request)
        allocation.expires = self.world.now + lifetime
        return {"LIFETIME": lifetime}

    def _indication(self, client: Client, message: Message) -> None:
        """RFC 8656 §11.2: a Send indication; whatever is wrong with it is not answered."""
        allocation, attributes = self.allocation(client), message.attributes
        if allocation is None or message.message_method != Method.SEND:
            self.unpermitted += 1
        elif "XOR-PEER-ADDRESS" in attributes and "DATA" in attributes:
            allocation.to_peer(attributes["XOR-PEER-ADDRESS"], attributes["DATA"])

    def _channel_data(self, client: Client, data: bytes) -> None:
        allocation = self.allocation(client)
        peer = allocation.channel_peer(int.from_bytes(data[:2], "big")) if allocation is not None else None
        size = int.from_bytes(data[2:4], "big")
        if allocation is None or peer is None or len(data) < 4 + size:
            self.unpermitted += 1
        else:
            allocation.to_peer(peer, data[4 : 4 + size])


def family_of(address: Address) -> int:
    return IPV6 if is_ipv6(address[0]) else IPV4
