"""STUN and TURN servers as people write them: :class:`IceServer`, and the URIs of RFC 7064 and RFC 7065."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .core.address import canonical_host
from .core.servers import StunServer, TurnServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    #: User name, password and perhaps the seconds for which they are good.
    Fetched = tuple[str, str] | tuple[str, str, float | None]
    Credential = str | Callable[[], Awaitable[Fetched]]

__all__ = ["IceServer", "ephemeral_credentials"]

_SCHEMES = ("stun", "stuns", "turn", "turns")
#: RFC 7064 §3.2, RFC 7065 §3.2.
_PORT = 3478
_TLS_PORT = 5349
_HOST_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class IceServer:
    """A STUN or TURN server, by one or more of its URIs, in the shape of W3C's RTCIceServer.

    :param urls: ``stun:host``, ``turn:host:port?transport=tcp``, ``turns:[2001:db8::1]``, … or a list of them. All are
        asked side by side; those of one host are taken as ways to one server.
    :param username: The user name for TURN.
    :param credential: The password, or a coroutine function without arguments that gives ``(username, password)`` or
        ``(username, password, seconds)``: it is called before the server is asked, again when the server refuses, and
        before the seconds are over.
    :param ssl_context: For ``turns:``, in place of that of the connection or the system's trust.
    :raises ValueError: for a URI that is malformed, and for one that names what this library does not know.
    """

    __slots__ = ("urls", "username", "credential", "ssl_context")

    def __init__(
        self,
        urls: str | Sequence[str],
        username: str | None = None,
        credential: Credential | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.urls: tuple[str, ...] = (urls,) if isinstance(urls, str) else tuple(urls)
        self.username = username
        self.credential = credential
        self.ssl_context = ssl_context
        for url in self.urls:
            parse_url(url)
        if username is not None and not isinstance(username, str):
            raise ValueError("the username of an ICE server is a text")
        if credential is not None and not (isinstance(credential, str) or callable(credential)):
            raise ValueError("the credential of an ICE server is a text or a coroutine function")
        if isinstance(credential, str) and username is None:
            raise ValueError("an ICE server with a credential needs a username too")

    def __repr__(self) -> str:
        return f"IceServer({list(self.urls)!a})"


class ServerUrl:
    """A parsed URI."""

    __slots__ = ("scheme", "host", "port", "transport", "tls")

    def __init__(self, scheme: str, host: str, port: int, transport: str, tls: bool) -> None:
        #: ``stun`` or ``turn``.
        self.scheme = scheme
        self.host = host
        self.port = port
        self.transport = transport
        self.tls = tls


def parse_url(url: object) -> ServerUrl:
    """Read a ``stun:``, ``stuns:``, ``turn:`` or ``turns:`` URI; raises :class:`ValueError` that says what is wrong.

    ``?transport=`` is taken after ``stun:`` as well, where RFC 7064 has none, for lists are written so.
    """
    try:
        if not isinstance(url, str):
            raise ValueError("it is not a text")
        return _parse(url)
    except ValueError as exc:
        # UnicodeError, which it may be, says things about codecs.
        reason = "its host is not a valid name" if isinstance(exc, UnicodeError) else str(exc)
        raise ValueError(f"ICE server {ascii(url)[:200]} cannot be used: {reason}") from None


def _parse(url: str) -> ServerUrl:
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in _SCHEMES:
        raise ValueError("a URI begins with stun:, stuns:, turn: or turns:")
    if rest.startswith("//"):
        raise ValueError(f"no slashes follow {scheme}:")
    if not url.isprintable() or " " in url:
        raise ValueError("it has spaces or control characters")
    tls = scheme.endswith("s")
    authority, question, query = rest.partition("?")
    transport = "tcp" if tls else "udp"
    if question:
        name, _, transport = query.lower().partition("=")
        if name != "transport":
            raise ValueError("?transport= is the only parameter")
        if transport not in ("udp", "tcp"):
            raise ValueError("the transport is udp or tcp")
    for character, reason in (("@", "the user name stands in a parameter of its own"), ("/", "a path"), ("#", "a #")):
        if character in authority:
            raise ValueError(reason if character == "@" else f"it has {reason}")
    host, port = _split(authority)
    return ServerUrl(scheme.removesuffix("s"), host, _port(port) or (_TLS_PORT if tls else _PORT), transport, tls)


def _split(authority: str) -> tuple[str, str]:
    """Host and the text of the port (RFC 3986 §3.2.2)."""
    if authority.startswith("["):
        literal, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("after the IPv6 address comes ] and perhaps a port")
        if ":" not in literal or "%" in literal:
            raise ValueError("in the brackets stands an IPv6 address without a zone")
        try:
            return canonical_host(literal), port[1:]
        except ValueError:
            raise ValueError("in the brackets stands no IPv6 address") from None
    if authority.count(":") > 1:
        raise ValueError("an IPv6 address stands in brackets")
    host, _, port = authority.partition(":")
    return _host(host), port


def _port(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError("the port is a number from 1 to 65535")
    return int(text)


def _host(text: str) -> str:
    """A name in the form that DNS knows (RFC 3986 §3.2.2: percent-encoded UTF-8; RFC 5890), or an IPv4 address."""
    name = _unquote(text)
    if not name.isascii():
        name = name.encode("idna").decode()
    labels = name.removesuffix(".").split(".")
    if not name or len(name) > 254:
        raise ValueError("it has no host" if not name else "its host is too long")
    for label in labels:
        if not 0 < len(label) <= 63 or not _HOST_CHARS.issuperset(label):
            raise ValueError("its host is not a valid name")
    if labels[-1].isdigit():
        try:
            return canonical_host(name)
        except ValueError:
            raise ValueError("its host is not a valid IPv4 address") from None
    return name


def _unquote(text: str) -> str:
    first, *others = text.split("%")
    data = bytearray(first.encode())
    for part in others:
        digits = part[:2]
        if len(digits) < 2 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise ValueError("a % is followed by two hexadecimal digits")
        data.append(int(digits, 16))
        data += part[2:].encode()
    return data.decode()


def ice_servers_of(servers: Iterable[IceServer | Mapping[str, Any]]) -> tuple[IceServer, ...]:
    """Servers as an application gives them; raises :class:`ValueError` for what cannot be used."""
    if isinstance(servers, IceServer | Mapping | str):
        raise ValueError("ice_servers is a list of servers")
    return tuple(server if isinstance(server, IceServer) else _from_mapping(server) for server in servers)


def _from_mapping(server: object) -> IceServer:
    if not isinstance(server, Mapping):
        raise ValueError(f"an ICE server is an IceServer or a mapping with urls, not {ascii(server)[:100]}")
    urls = server.get("urls", server.get("url"))
    if not urls:
        raise ValueError("an ICE server needs urls")
    if server.get("credentialType", "password") != "password":
        raise ValueError("the only credentialType of an ICE server that is known is password")
    return IceServer(urls, server.get("username"), server.get("credential"), ssl_context=server.get("ssl_context"))


def servers_of(servers: Sequence[IceServer]) -> tuple[StunServer | TurnServer, ...]:
    """What an agent is told of them: one server for each URI. Their credentials are fetched by their number."""
    found: list[StunServer | TurnServer] = []
    for number, server in enumerate(servers):
        for text in server.urls:
            url = parse_url(text)
            if url.scheme == "stun":
                found.append(StunServer(url.host, url.port, url.transport, url.tls, text))
                continue
            user, password, source = server.username, server.credential, None
            if not (password is None or isinstance(password, str)):
                user, password, source = None, None, number
            found.append(TurnServer(url.host, url.port, url.transport, url.tls, user, password, source, text, number))
    return tuple(found)


async def fetch_credentials(server: IceServer, now: Callable[[], float]) -> tuple[str, str, float | None]:
    """Ask the server's callback; the last item is when the credentials end, by the clock ``now``.

    :raises ValueError: when the callback gives something else; and what it raises.
    """
    assert server.credential is not None and not isinstance(server.credential, str)
    fetched = await server.credential()
    if not isinstance(fetched, tuple | list) or not 2 <= len(fetched) <= 3:
        raise ValueError("it must give a username, a password and perhaps a lifetime")
    username, password, lifetime = (*fetched, None)[:3]
    if not (isinstance(username, str) and isinstance(password, str)):
        raise ValueError("the username and the password must be texts")
    if lifetime is None:
        return username, password, None
    expires = now() + float(lifetime)
    if expires != expires:
        raise ValueError("the lifetime must be a number of seconds")
    return username, password, expires


def ephemeral_credentials(secret: str | bytes, user: str = "", lifetime: float = 86400) -> tuple[str, str]:
    """User name and password that are good for ``lifetime`` seconds, for TURN servers that share ``secret`` with you.

    The "TURN REST API" of draft-uberti-behave-turn-rest, as coturn's ``use-auth-secret`` and others do it: the name has
    the time of its end in it, the password is the HMAC-SHA1 of the name.
    """
    import hmac
    import time
    from binascii import b2a_base64

    expiry = int(time.time() + lifetime)
    username = f"{expiry}:{user}" if user else str(expiry)
    key = secret.encode() if isinstance(secret, str) else secret
    return username, b2a_base64(hmac.digest(key, username.encode(), "sha1"), newline=False).decode()
