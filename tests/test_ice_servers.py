"""STUN and TURN servers as people write them (RFC 7064, RFC 7065, W3C's RTCIceServer)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
import time
from typing import Any

import pytest

import aioice
from aioice import AddressRewrite, Connection, IceServer, ephemeral_credentials
from aioice.core.servers import StunServer, TurnServer
from aioice.servers import fetch_credentials, parse_url, servers_of


def parts(url: str) -> tuple[str, str, int, str, bool]:
    parsed = parse_url(url)
    return parsed.scheme, parsed.host, parsed.port, parsed.transport, parsed.tls


class TestUris:
    @pytest.mark.parametrize(
        "url, expected",
        [
            ("stun:example.org", ("stun", "example.org", 3478, "udp", False)),
            ("stun:example.org:19302", ("stun", "example.org", 19302, "udp", False)),
            ("stuns:example.org", ("stun", "example.org", 5349, "tcp", True)),
            ("turn:example.org", ("turn", "example.org", 3478, "udp", False)),
            ("turn:example.org:80?transport=tcp", ("turn", "example.org", 80, "tcp", False)),
            ("turn:example.org?transport=udp", ("turn", "example.org", 3478, "udp", False)),
            ("turns:example.org", ("turn", "example.org", 5349, "tcp", True)),
            ("turns:example.org:443?transport=tcp", ("turn", "example.org", 443, "tcp", True)),
            ("turns:example.org?transport=udp", ("turn", "example.org", 5349, "udp", True)),
            ("TURN:example.org?TRANSPORT=TCP", ("turn", "example.org", 3478, "tcp", False)),
            ("stun:example.org?transport=tcp", ("stun", "example.org", 3478, "tcp", False)),
            ("stun:192.0.2.1", ("stun", "192.0.2.1", 3478, "udp", False)),
            ("stun:[2001:DB8::0:1]", ("stun", "2001:db8::1", 3478, "udp", False)),
            ("turn:[2001:db8::1]:5000?transport=tcp", ("turn", "2001:db8::1", 5000, "tcp", False)),
            # RFC 3986 §3.2.3: the port may be empty.
            ("stun:example.org:", ("stun", "example.org", 3478, "udp", False)),
            ("stun:example.org.", ("stun", "example.org.", 3478, "udp", False)),
            ("stun:_stun._udp.example.org", ("stun", "_stun._udp.example.org", 3478, "udp", False)),
            # Percent-encoded UTF-8 and IDNA (RFC 7064 §3.1, RFC 3986 §3.2.2).
            ("stun:ex%61mple.org", ("stun", "example.org", 3478, "udp", False)),
            ("stun:b%C3%BCcher.example", ("stun", "xn--bcher-kva.example", 3478, "udp", False)),
            ("turns:bücher.example:443", ("turn", "xn--bcher-kva.example", 443, "tcp", True)),
        ],
    )
    def test_that_can_be_read(self, url: str, expected: tuple[str, str, int, str, bool]) -> None:
        assert parts(url) == expected

    @pytest.mark.parametrize(
        "url, why",
        [
            ("", "begins with stun:"),
            ("example.org", "begins with stun:"),
            ("http://example.org", "begins with stun:"),
            ("turn://example.org", "no slashes"),
            ("turn:", "no host"),
            ("turn::3478", "no host"),
            ("turn:user@example.org", "user name"),
            ("turn:example.org/path", "a path"),
            ("turn:example.org#part", "a #"),
            ("turn:example.org:0", "port"),
            ("turn:example.org:65536", "port"),
            ("turn:example.org:+80", "port"),
            ("turn:example.org:٣", "port"),
            ("turn:example.org:80:80", "brackets"),
            ("turn:2001:db8::1", "brackets"),
            ("turn:[2001:db8::1", "]"),
            ("turn:[2001:db8::1]80", "]"),
            ("turn:[192.0.2.1]", "IPv6"),
            ("turn:[2001:db8:::1]", "IPv6"),
            ("turn:[fe80::1%25eth0]", "zone"),
            ("turn:example.org?transport=sctp", "udp or tcp"),
            ("turn:example.org?transport=", "udp or tcp"),
            ("turn:example.org?x=y", "?transport="),
            ("turn:example.org?transport=udp&x=y", "udp or tcp"),
            ("turn:256.0.0.1", "IPv4"),
            ("turn:1.2.3", "IPv4"),
            ("turn:exa mple.org", "spaces"),
            ("turn:example.org\n", "control"),
            ("turn:exam..ple", "valid name"),
            ("turn:exam%20ple", "valid name"),
            ("turn:exam%00ple", "valid name"),
            ("turn:exam%ple", "hexadecimal"),
            ("turn:exam%F", "hexadecimal"),
            ("turn:exam%FF", "valid name"),
            ("turn:" + "a" * 64, "valid name"),
            ("turn:" + "a." * 130, "too long"),
            ("turn:" + "ü" * 64, "valid name"),
            (7, "not a text"),
        ],
    )
    def test_that_are_malformed(self, url: Any, why: str) -> None:
        with pytest.raises(ValueError) as caught:
            Connection(True, ice_servers=[{"urls": [url]}] if url != "" else [IceServer("")])
        text = str(caught.value)
        assert why in text and text.isascii() and text.isprintable()


class TestServers:
    def test_names(self) -> None:
        assert aioice.IceServer is IceServer
        assert "IceServer" in aioice.__all__

    def test_one_url_or_many(self) -> None:
        assert IceServer("stun:a").urls == IceServer(["stun:a"]).urls == ("stun:a",)
        server = IceServer(("turn:a", "turns:a"), "user", "pass")
        assert servers_of([IceServer("stun:b"), server]) == (
            StunServer("b", 3478, "udp", False, "stun:b"),
            TurnServer("a", 3478, "udp", False, "user", "pass", None, "turn:a", 1),
            TurnServer("a", 5349, "tcp", True, "user", "pass", None, "turns:a", 1),
        )

    def test_it_shows_no_secret(self) -> None:
        assert "hush" not in repr(IceServer("turn:a", "user", "hush"))

    def test_mappings(self) -> None:
        connection = Connection(
            True,
            ice_servers=[
                {"urls": "stun:a"},
                {"urls": ["turn:b", "turn:b?transport=tcp"], "username": "u", "credential": "p", "more": 1},
                {"url": "stun:c", "credentialType": "password"},
            ],
        )
        assert [server.host for server in connection._config.servers] == ["a", "b", "b", "c"]

    @pytest.mark.parametrize(
        "servers, why",
        [
            ([{}], "urls"),
            ([{"urls": []}], "urls"),
            (["stun:a"], "mapping"),
            ("stun:a", "a list"),
            ({"urls": "stun:a"}, "a list"),
            (IceServer("stun:a"), "a list"),
            ([{"urls": "turn:a", "credentialType": "oauth", "credential": "x"}], "credentialType"),
            ([{"urls": "turn:a", "credential": "x"}], "username"),
            ([{"urls": "turn:a", "username": 1, "credential": "x"}], "username"),
            ([{"urls": "turn:a", "username": "a", "credential": 1}], "credential"),
        ],
    )
    def test_that_make_no_sense(self, servers: Any, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            Connection(True, ice_servers=servers)

    def test_the_old_arguments_mean_the_same(self) -> None:
        connection = Connection(
            True, stun_server=("a", 1), turn_server=("b", 2), turn_username="u", turn_password="p", turn_ssl=True
        )
        connection._read_attributes(0.0)
        assert connection._agent._gatherer.servers == (StunServer("a", 1), TurnServer("b", 2, "udp", False, "u", "p"))
        connection.stun_server, connection.turn_transport = None, "tcp"
        connection._read_attributes(0.0)
        assert connection._agent._gatherer.servers == (TurnServer("b", 2, "tcp", True, "u", "p"),)

    def test_they_stand_beside_the_old_ones(self) -> None:
        connection = Connection(True, stun_server=("a", 1), ice_servers=[IceServer("stun:b")])
        connection._read_attributes(0.0)
        assert [server.host for server in connection._agent._gatherer.servers] == ["a", "b"]

    def test_contexts_of_their_own(self) -> None:
        context = ssl.create_default_context()
        connection = Connection(True, ice_servers=[IceServer(["turns:a.:443", "turn:a"], ssl_context=context)])
        assert connection._ssl_contexts() == {("a", 443): context, ("a", 3478): context}
        assert Connection(True, ice_servers=[IceServer("turns:a")])._ssl_contexts() is None


class TestCredentials:
    def test_ephemeral(self) -> None:
        before = int(time.time())
        username, password = ephemeral_credentials("north", "joe", 3600)
        expiry, _, user = username.partition(":")
        assert user == "joe" and before + 3600 <= int(expiry) <= int(time.time()) + 3600
        expected = hmac.new(b"north", username.encode(), hashlib.sha1).digest()
        assert base64.b64decode(password) == expected

    def test_ephemeral_without_a_user(self) -> None:
        username, password = ephemeral_credentials(b"north")
        assert username.isdigit() and password.isascii()

    async def test_a_callback(self) -> None:
        async def credential() -> tuple[str, str, float]:
            return "user", "pass", 60

        server = IceServer("turn:a", credential=credential)
        assert servers_of([server]) == (TurnServer("a", 3478, "udp", False, None, None, 0, "turn:a", 0),)
        assert await fetch_credentials(server, lambda: 100.0) == ("user", "pass", 160.0)

    @pytest.mark.parametrize("given", [("user", "pass"), ["user", "pass", None]])
    async def test_without_an_end(self, given: Any) -> None:
        async def credential() -> Any:
            return given

        assert await fetch_credentials(IceServer("turn:a", credential=credential), lambda: 1.0) == (
            "user",
            "pass",
            None,
        )

    @pytest.mark.parametrize(
        "given",
        [
            None,
            "ab",
            ("user",),
            ("user", 1),
            ("user", "pass", 1, 2),
            ("user", "pass", "x"),
            ("user", "pass", float("nan")),
        ],
    )
    async def test_something_else(self, given: Any) -> None:
        async def credential() -> Any:
            return given

        with pytest.raises((ValueError, TypeError)):
            await fetch_credentials(IceServer("turn:a", credential=credential), lambda: 1.0)


class TestPolicy:
    def test_what_the_agent_is_told(self) -> None:
        connection = Connection(
            True,
            candidate_types=["host", "relay"],
            address_rewrites=[AddressRewrite("2001:DB8::5")],
            remote_filter=["10.0.0.0/8", "fc00::/7"],
        )
        config = connection._config
        assert config.candidate_types == frozenset(("host", "relay"))
        assert config.address_rewrites == (AddressRewrite("2001:db8::5"),)
        assert config.remote_filter is not None
        hosts = ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "nonsense", "11.0.0.1", "2001:db8::1"]
        assert [config.remote_filter(host) for host in hosts] == [False] * 4 + [True] * 2
        assert Connection(True)._config.remote_filter is None

    def test_a_predicate(self, caplog: pytest.LogCaptureFixture) -> None:
        config = Connection(True, remote_filter=lambda host: {"a": 1, "b": 0}[host])._config  # type: ignore[arg-type,return-value]
        assert config.remote_filter is not None
        assert config.remote_filter("a") is True and config.remote_filter("b") is False
        # What it raises must not end the connection.
        assert config.remote_filter("c") is False
        assert "remote_filter" in caplog.text

    @pytest.mark.parametrize(
        "options",
        [
            {"candidate_types": []},
            {"candidate_types": ["prflx"]},
            {"candidate_types": ["\x1b[2J"]},
            {"address_rewrites": [AddressRewrite("\x1b[2J")]},
            {"remote_filter": ["10.0.0.0/99"]},
            {"remote_filter": ["10.0.0.1/8"]},
        ],
    )
    def test_what_makes_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError) as caught:
            Connection(True, **options)
        assert "\x1b" not in str(caught.value)

    def test_one_type_is_a_type(self) -> None:
        assert Connection(True, candidate_types="relay")._config.candidate_types == frozenset(("relay",))

    @pytest.mark.parametrize(
        "use_ipv4, use_ipv6, families",
        [(True, True, (4, 6)), (True, False, (4,)), (False, True, (6,)), (False, False, ())],
    )
    def test_families_of_relays(self, use_ipv4: bool, use_ipv6: bool, families: tuple[int, ...]) -> None:
        assert Connection(True, use_ipv4=use_ipv4, use_ipv6=use_ipv6)._config.relay_families == families
