"""A TURN server (RFC 8656) for the simulated internet: its users, its relays, and what it does wrong."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.attributes import BY_NAME
from ..core.credentials import MD5, NONCE_COOKIE, make_integrity_key, make_userhash, opaque_string
from ..core.demux import CHANNEL_MAX, CHANNEL_MIN
from ..core.machine import Address
from ..core.message import Class, Message, Method, Several
from .hosts import Listener
from .links import is_ipv6
from .stun import REASONS, Attributes, Client, Datagrams, Key, Refusal, ServerHost, StunServer

if TYPE_CHECKING:
    from ..core.machine import Reason
    from .hosts import Stream

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
#: RFC 8489 §18.1: the security features in a nonce.
PASSWORD_ALGORITHMS, USERNAME_ANONYMITY = 0x800000, 0x400000


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
        #: When each family ends (RFC 8656 §8.1).
        self.ends: dict[int, float] = {}
        self.sockets: dict[int, Datagrams] = {}
        self.permissions: dict[str, float] = {}
        self.channels: dict[int, tuple[Address, float]] = {}

    def add_relay(self, family: int, host: str) -> None:
        self.sockets[family] = socket = self.server.host.bind(host)
        socket.on_datagram = self._from_peer
        socket.on_error = self._peer_error

    def drop(self, family: int) -> None:
        """The relay of this family is gone, with its permissions and channels."""
        self.ends.pop(family, None)
        self.sockets.pop(family).close()
        self.permissions = {host: end for host, end in self.permissions.items() if family_of((host, 0)) != family}
        self.channels = {number: bound for number, bound in self.channels.items() if family_of(bound[0]) != family}

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
        """Here always port unreachable."""
        self.icmp(peer, *((3, 3) if family_of(peer) == IPV4 else (1, 4)))

    def icmp(self, peer: Address, icmp_type: int, code: int) -> None:
        """RFC 8656 §11.5: an ICMP message about ``peer`` goes to the client in a Data indication."""
        if self.server.allocation(self.client) is self:
            value = bytes((0, 0, icmp_type, code)) + bytes(4)
            self.server.indicate(self.client, {"XOR-PEER-ADDRESS": peer, "ICMP": value})

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close()


class TurnServer(StunServer):
    """Relays for clients that know the long-term credentials; also a STUN server.

    What it does wrong, tests set in its public attributes, at any time; what makes a :class:`StunServer` misbehave does
    so here, too.
    """

    def __init__(
        self,
        host: ServerHost,
        address: str,
        port: int,
        users: dict[str, str],
        relays: tuple[str, ...],
        tls_port: int,
        certificate: str,
    ) -> None:
        #: Passwords by name. Who is taken out is refused from then on (401).
        self.users = users
        self.realm = "sim"
        self.relays = {IPV6 if is_ipv6(relay) else IPV4: relay for relay in reversed(relays)}
        self.tls_address: Address = (address, tls_port)
        self.certificate = certificate
        #: How long allocations live that ask for nothing else.
        self.lifetime = LIFETIME
        #: The lifetime that answers tell, whatever is true: 0 and absurd values included.
        self.told_lifetime: int | None = None
        #: So many allocations for each user, then 486.
        self.quota: int | None = None
        #: Peers that clients may not reach: 403.
        self.forbidden: set[str] = set()
        #: PASSWORD-ALGORITHMS, best first (RFC 8489 §9.2.4): 2 is SHA-256, 1 is MD5; none as before that RFC.
        self.password_algorithms: tuple[int, ...] = ()
        #: Users are to show a hash of their name only (RFC 8489 §9.2: username anonymity).
        self.anonymity = False
        #: Each nonce is good for so many requests, then 438.
        self.nonce_uses: int | None = None
        #: Types of attributes that it does not know: 420 for those that must be understood, and it ignores others.
        self.ignorant_of: set[int] = set()
        #: Why a dual allocation has no relay of a family: 440 or 508 by :data:`IPV4` or :data:`IPV6`.
        self.family_errors: dict[int, int] = {}
        #: Signs its answers with a key that is not the user's.
        self.forges = False
        #: Datagrams, in both directions, without a permission or an allocation.
        self.unpermitted = 0
        self.allocations: dict[tuple[str, Address], Allocation] = {}
        self._secret = ""
        self._nonce_used = 0
        self.world = host.world
        self.expire_nonce()
        super().__init__(host, address, port)

    @property
    def nonce(self) -> str:
        """The one that is good now, with the security features that it tells of (RFC 8489 §9.2)."""
        features = PASSWORD_ALGORITHMS * bool(self.password_algorithms) | USERNAME_ANONYMITY * self.anonymity
        cookie = NONCE_COOKIE + b64encode(features.to_bytes(3, "big")) if features else b""
        return cookie.decode() + self._secret

    def expire_nonce(self) -> None:
        """The nonce is stale from now on (438)."""
        self._secret = self.world.random_bytes(8).hex()
        self._nonce_used = 0

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
        for key, known in list(self.allocations.items()):
            for family in [family for family, end in known.ends.items() if end <= self.world.now]:
                self._drop(key, family)
        return self.allocations.get(client.key)

    def indicate(self, client: Client, attributes: Attributes) -> None:
        """Send a Data indication."""
        client.send(bytes(Message(Method.DATA, Class.INDICATION, self.world.random_bytes(12), attributes)))

    def drop_family(self, family: int) -> None:
        """All dual allocations lose the relay of this family, :data:`IPV4` or :data:`IPV6`."""
        for key, allocation in list(self.allocations.items()):
            if family in allocation.sockets:
                self._drop(key, family)

    def _drop(self, key: tuple[str, Address], family: int) -> None:
        self.allocations[key].drop(family)
        if not self.allocations[key].sockets:
            del self.allocations[key]

    # ------------------------------------------------------------------------------------------------ what comes in

    def _listeners(self) -> list[Listener]:
        return [*super()._listeners(), Listener(self.tls_address, self._accept, self.certificate)]

    def _gone(self, client: Client, stream: Stream) -> None:
        super()._gone(client, stream)
        allocation = self.allocations.pop(client.key, None)
        if allocation is not None:
            allocation.close()

    def _challenge(self) -> Attributes:
        challenge: Attributes = {"REALM": self.realm, "NONCE": self.nonce.encode()}
        if self.password_algorithms:
            challenge["PASSWORD-ALGORITHMS"] = [(number, b"") for number in self.password_algorithms]
        return challenge

    def _authenticate(self, client: Client, request: Message) -> Key | None:
        """RFC 8489 §9.2.4."""
        if request.message_method == Method.BINDING:
            return None
        attributes = request.attributes
        if "MESSAGE-INTEGRITY" not in attributes and "MESSAGE-INTEGRITY-SHA256" not in attributes:
            raise Refusal(401)
        if "REALM" not in attributes or "NONCE" not in attributes:
            raise Refusal(400)
        algorithm = self._algorithm(attributes)
        user = self._user(attributes)
        if user is None:
            raise Refusal(401)
        key = make_integrity_key(user, opaque_string(self.realm), opaque_string(self.users[user]), algorithm or MD5)
        sha256 = "MESSAGE-INTEGRITY-SHA256" in attributes
        if not (request.check_message_integrity_sha256(key) if sha256 else request.check_message_integrity(key)):
            raise Refusal(401)
        if self.nonce_uses is not None and self._nonce_used >= self.nonce_uses:
            self.expire_nonce()
        if attributes["NONCE"] != self.nonce.encode():
            raise Refusal(438)
        self._nonce_used += 1
        return Key(user, b"of somebody else" if self.forges else key, algorithm is not None)

    def _algorithm(self, attributes: Mapping[str, Any]) -> int | None:
        """The password algorithm that a client has chosen; None if it knows of none."""
        names = ("PASSWORD-ALGORITHM", "PASSWORD-ALGORITHMS")
        if not self.password_algorithms or not any(name in attributes for name in names):
            return None
        chosen, offered = (attributes.get(name) for name in names)
        if chosen is None or offered is None or [number for number, _ in offered] != list(self.password_algorithms):
            raise Refusal(400)
        number: int = chosen[0]
        if number not in self.password_algorithms:
            raise Refusal(400)
        return number

    def _user(self, attributes: Mapping[str, Any]) -> str | None:
        """Who makes the request, if anybody that is known."""
        if "USERHASH" in attributes:
            realm = opaque_string(self.realm)
            hashes = {make_userhash(opaque_string(user), realm): user for user in self.users}
            return hashes.get(attributes["USERHASH"])
        if "USERNAME" not in attributes:
            raise Refusal(400)
        return next((user for user in self.users if opaque_string(user) == attributes["USERNAME"]), None)

    def _unknown(self, request: Message) -> list[int]:
        present = [BY_NAME[name].type for name in request.attributes]
        return [number for number in present if number < 0x8000 and number in self.ignorant_of]

    def _answer(self, client: Client, request: Message) -> Attributes:
        method = request.message_method
        if method == Method.BINDING:
            return super()._answer(client, request)
        user = self._user(request.attributes) or ""
        allocation = self.allocation(client)
        if method == Method.ALLOCATE:
            return self._allocate(client, allocation, request, user)
        if allocation is None:
            raise Refusal(437)
        if allocation.username != user:
            raise Refusal(441)
        if method == Method.REFRESH:
            return self._refresh(allocation, request)
        if method == Method.CREATE_PERMISSION:
            for host, _ in self._peers(allocation, request):
                allocation.permit(host)
            return {}
        if method == Method.CHANNEL_BIND:
            number = request.attributes.get("CHANNEL-NUMBER", 0)
            if not CHANNEL_MIN <= number <= CHANNEL_MAX:
                raise Refusal(400)
            allocation.bind_channel(number, self._peers(allocation, request)[0])
            return {}
        raise Refusal(400)

    def _peers(self, allocation: Allocation, request: Message) -> list[Address]:
        """The peers that a request names; one that may not be spoken to spoils it for all (RFC 8656 §10.2)."""
        peers: list[Address] = request.values("XOR-PEER-ADDRESS")
        if not peers:
            raise Refusal(400)
        if any(family_of(peer) not in allocation.sockets for peer in peers):
            raise Refusal(443)
        if any(peer[0] in self.forbidden for peer in peers):
            raise Refusal(403)
        return peers

    def _granted(self, request: Message) -> int:
        return min(max(int(request.attributes.get("LIFETIME", 0)), self.lifetime), MAX_LIFETIME)

    def _told(self, lifetime: int) -> int:
        return lifetime if self.told_lifetime is None else self.told_lifetime

    def _allocate(self, client: Client, known: Allocation | None, request: Message, user: str) -> Attributes:
        """RFC 8656 §7.2."""
        attributes = request.attributes
        if known is not None:
            if known.transaction_id == request.transaction_id:
                return known.answer
            raise Refusal(437)
        if "REQUESTED-TRANSPORT" not in attributes:
            raise Refusal(400)
        if attributes["REQUESTED-TRANSPORT"] >> 24 != UDP_PROTOCOL:
            raise Refusal(442)
        family = attributes.get("REQUESTED-ADDRESS-FAMILY", IPV4 << 24) >> 24
        ignored = BY_NAME["ADDITIONAL-ADDRESS-FAMILY"].type in self.ignorant_of
        additional = 0 if ignored else attributes.get("ADDITIONAL-ADDRESS-FAMILY", 0) >> 24
        if additional and (additional != IPV6 or "REQUESTED-ADDRESS-FAMILY" in attributes):
            raise Refusal(400)
        if family not in self.relays:
            raise Refusal(440)
        used = sum(other.username == user for other in self.allocations.values())
        if self.quota is not None and used >= self.quota:
            raise Refusal(486)
        allocation = Allocation(self, client, user, request.transaction_id)
        lifetime = self._granted(request)
        missing: Attributes = {}
        for wanted in [family, additional] if additional else [family]:
            code = 440 if wanted not in self.relays else self.family_errors.get(wanted, 0) if additional else 0
            if code:
                missing = {"ADDRESS-ERROR-CODE": (wanted, code, REASONS[code])}
            else:
                allocation.add_relay(wanted, self.relays[wanted])
                allocation.ends[wanted] = self.world.now + lifetime
        if not allocation.sockets:
            raise Refusal(508)
        allocation.answer = {
            "XOR-RELAYED-ADDRESS": Several(allocation.relayed),
            "LIFETIME": self._told(lifetime),
            "XOR-MAPPED-ADDRESS": client.address,
        } | missing
        self.allocations[client.key] = allocation
        return allocation.answer

    def _refresh(self, allocation: Allocation, request: Message) -> Attributes:
        """RFC 8656 §8.2."""
        family = request.attributes.get("REQUESTED-ADDRESS-FAMILY")
        if family is not None and family >> 24 not in allocation.sockets:
            raise Refusal(443)
        families = list(allocation.sockets) if family is None else [family >> 24]
        lifetime = 0 if request.attributes.get("LIFETIME") == 0 else self._granted(request)
        for number in families:
            if lifetime:
                allocation.ends[number] = self.world.now + lifetime
            else:
                self._drop(allocation.client.key, number)
        return {"LIFETIME": self._told(lifetime) if lifetime else 0}

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
