"""Which addresses of the host are of use (RFC 8445 §5.1.1.1, RFC 6724), and how the system is asked for them."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ifaddr
import pytest

from aioice import ice
from aioice.net import interfaces
from aioice.net.interfaces import HostFilter, LocalAddress, choose, host_addresses, list_addresses

TEMPORARY = {"temporary": True}
UNFIT = {"unfit": True}


def local(text: str, interface: str = "eth0", **more: Any) -> LocalAddress:
    address, _, scope = text.partition("%")
    return LocalAddress(interface, ip_address(address), int(scope or 0), **more)


def all_of(*texts: str) -> list[LocalAddress]:
    return [local(text) for text in texts]


class Adapters:
    """What ifaddr tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **ips: list[str]) -> None:
        made = []
        for index, (name, texts) in enumerate(ips.items(), 1):
            adapter = ifaddr.Adapter(name, name, [], index)
            for text in texts:
                host, _, scope = text.partition("%")
                adapter.ips.append(ifaddr.IP((host, 0, int(scope or 0)) if ":" in host else host, 64, name))
            made.append(adapter)
        monkeypatch.setattr(ifaddr, "get_adapters", lambda: made)


class TestUselessKinds:
    def test_f14(self) -> None:
        """F14: of this list, only the last one."""
        hosts = all_of("127.0.0.1", "127.0.1.1", "0.0.0.0", "::ffff:192.0.2.1", "fec0::1", "::192.0.2.1", "2001:db8::1")
        assert choose(hosts) == ["2001:db8::1"]

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.255.0.9", "::1", "0.0.0.0", "0.1.2.3", "::", "::ffff:192.0.2.1", "::192.0.2.1"]
        + ["fec0::1", "feff::1", "224.0.0.251", "ff02::1", "255.255.255.255"],
    )
    def test_alone(self, host: str) -> None:
        """Also where there is nothing better."""
        assert choose([local(host)]) == []

    @pytest.mark.parametrize(
        "host",
        ["10.0.0.1", "100.64.0.1", "169.254.1.1", "192.0.0.4", "2001:db8::1", "fd00::1", "2002::1", "64:ff9b::1"],
    )
    def test_of_use(self, host: str) -> None:
        assert choose([local(host)]) == [host]

    def test_families(self) -> None:
        hosts = all_of("192.0.2.1", "2001:db8::1")
        assert choose(hosts) == ["192.0.2.1", "2001:db8::1"]
        assert choose(hosts, use_ipv6=False) == ["192.0.2.1"]
        assert choose(hosts, use_ipv4=False) == ["2001:db8::1"]
        assert choose(hosts, use_ipv4=False, use_ipv6=False) == []

    def test_once(self) -> None:
        assert choose([local("192.0.2.1"), local("192.0.2.1", "eth1")]) == ["192.0.2.1"]

    def test_include_loopback(self) -> None:
        """Behind all others, and of all that is useless only loopback."""
        hosts = all_of("127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.1")
        assert choose(hosts, host_filter=HostFilter(include_loopback=True)) == ["192.0.2.1", "127.0.0.1", "::1"]


class TestPrivacy:
    def test_temporary_one_alone(self) -> None:
        """RFC 8445 §5.1.1.1: neither a stable one of the same prefix and interface nor a link-local one."""
        hosts = [
            local("fe80::1%2"),
            local("2001:db8:0:1::1"),
            local("2001:db8:0:1::aaaa", **TEMPORARY),
            local("192.0.2.1"),
        ]
        assert choose(hosts) == ["2001:db8:0:1::aaaa", "192.0.2.1"]

    def test_other_prefix_and_other_interface(self) -> None:
        """RFC 6724 §5 rule 7: behind the temporary one."""
        hosts = [
            local("2001:db8:0:2::1"),
            local("2001:db8:0:1::1", "wlan0"),
            local("2001:db8:0:1::aaaa", **TEMPORARY),
        ]
        assert choose(hosts) == ["2001:db8:0:1::aaaa", "2001:db8:0:2::1", "2001:db8:0:1::1"]

    def test_two_temporary_ones(self) -> None:
        """RFC 8981 §3.4: while the next one is there already."""
        hosts = [local("2001:db8::1"), local("2001:db8::a", **TEMPORARY), local("2001:db8::b", **TEMPORARY)]
        assert choose(hosts) == ["2001:db8::a", "2001:db8::b"]

    def test_temporary_one_that_is_deprecated(self) -> None:
        """It is left out itself, and so leaves nothing out."""
        hosts = [local("2001:db8::1"), local("2001:db8::a", **TEMPORARY, **UNFIT)]
        assert choose(hosts) == ["2001:db8::1"]

    def test_temporary_one_that_is_filtered_out(self) -> None:
        hosts = [local("2001:db8::1"), local("2001:db8::a", **TEMPORARY)]
        assert choose(hosts, host_filter=HostFilter(addresses=["2001:db8::1"])) == ["2001:db8::1"]

    def test_unfit(self) -> None:
        assert choose([local("2001:db8::1", **UNFIT), local("fe80::1%2", **UNFIT)]) == []


class TestLinkLocal:
    @pytest.mark.parametrize("better", ["192.0.2.1", "169.254.1.1", "2001:db8::1", "fd00::1"])
    def test_not_beside_better_ones(self, better: str) -> None:
        assert choose([local("fe80::1%2"), local(better, "eth1")]) == [better]

    def test_nothing_better(self) -> None:
        """With the zone that a socket needs, for each link."""
        hosts = [local("fe80::1%2"), local("fe80::1%3", "eth1"), local("::1", "lo")]
        assert choose(hosts) == ["fe80::1%2", "fe80::1%3"]
        assert choose(hosts, use_ipv6=False) == []
        assert choose(hosts, host_filter=HostFilter(include_loopback=True)) == ["fe80::1%2", "fe80::1%3", "::1"]

    def test_asked_for(self) -> None:
        hosts = [local("fe80::1%2"), local("2001:db8::1")]
        assert choose(hosts, host_filter=HostFilter(addresses=["fe80::/10"])) == ["fe80::1%2"]


class TestOrder:
    def test_of_rfc_6724(self) -> None:
        """§2.1: native addresses, 6to4, Teredo, unique local ones; those of IPv4 that stay on the link at last."""
        hosts = all_of("169.254.0.1", "fd00::1", "2001:0:1::1", "2002:c000:201::1", "2001:db8::1", "198.51.100.1")
        expected = ["198.51.100.1", "2001:db8::1", "2002:c000:201::1", "2001:0:1::1", "fd00::1", "169.254.0.1"]
        assert choose(hosts) == expected
        assert choose(reversed(hosts)) == expected

    def test_of_the_system(self) -> None:
        """Among equals."""
        hosts = ["10.0.0.1", "192.0.2.1", "172.16.0.1", "2001:db8:2::1", "2001:db8:1::1"]
        assert choose(all_of(*hosts)) == hosts


class TestFilters:
    HOSTS = (
        local("192.0.2.1"),
        local("2001:db8::1"),
        local("172.17.0.1", "docker0"),
        local("10.8.0.2", "tun0"),
    )

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (["eth0"], ["192.0.2.1", "2001:db8::1"]),
            ("tun0", ["10.8.0.2"]),
            (["tun*", "dock*"], ["172.17.0.1", "10.8.0.2"]),
            (["none"], []),
            (lambda name: not name.startswith("docker"), ["192.0.2.1", "10.8.0.2", "2001:db8::1"]),
        ],
    )
    def test_interfaces(self, wanted: Any, expected: list[str]) -> None:
        assert choose(self.HOSTS, host_filter=HostFilter(interfaces=wanted)) == expected

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (["192.0.2.1"], ["192.0.2.1"]),
            ("10.0.0.0/8", ["10.8.0.2"]),
            (["10.8.0.9/24", "2001:db8::/32"], ["10.8.0.2", "2001:db8::1"]),
            (lambda host: host.endswith(".1"), ["192.0.2.1", "172.17.0.1"]),
        ],
    )
    def test_addresses(self, wanted: Any, expected: list[str]) -> None:
        assert choose(self.HOSTS, host_filter=HostFilter(addresses=wanted)) == expected

    def test_both(self) -> None:
        both = HostFilter(interfaces=["eth0"], addresses=["192.0.2.0/24", "10.0.0.0/8"])
        assert choose(self.HOSTS, host_filter=both) == ["192.0.2.1"]

    @pytest.mark.parametrize("wanted", [[], "", [""], [1]])
    def test_that_name_nothing(self, wanted: Any) -> None:
        for parameter in ("interfaces", "addresses"):
            with pytest.raises(ValueError, match=parameter):
                HostFilter(**{parameter: wanted})

    @pytest.mark.parametrize("wanted", ["eth0", "192.0.2.300", "192.0.2.0/33", "fe80::/1%"])
    def test_that_are_no_addresses(self, wanted: str) -> None:
        with pytest.raises(ValueError, match=r"addresses: '.*' is neither an IP address nor a network"):
            HostFilter(addresses=["192.0.2.1", wanted])

    def test_among_those_that_others_chose(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their order and their kinds are not judged; an address of an interface that nobody knows is not admitted."""
        Adapters(monkeypatch, eth0=["192.0.2.1"], lo=["127.0.0.1"])
        hosts = ["127.0.0.1", "fe80::1%2", "192.0.2.1", "203.0.113.1"]
        assert HostFilter().among(hosts) == hosts
        assert HostFilter(addresses=["127.0.0.0/8", "fe80::/10"]).among(hosts) == ["127.0.0.1", "fe80::1%2"]
        assert HostFilter(interfaces=["*"]).among(hosts) == ["127.0.0.1", "192.0.2.1"]


def listed() -> list[LocalAddress]:
    return [address._replace(text="") for address in list_addresses()]


class TestListing:
    def test_the_spelling_of_whoever_lists_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As 0.13.0 gives them to programs."""
        Adapters(monkeypatch, eth0=["2001:0db8:0:0:0:0:0:7"])
        assert ice.get_host_addresses(use_ipv4=True, use_ipv6=True) == ["2001:0db8:0:0:0:0:0:7"]

    def test_what_the_system_tells(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        Adapters(
            monkeypatch,
            lo=["127.0.0.1", "::1"],
            eth0=["192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5", "fe80::1%2"],
            junk=["not an address"],
        )
        flags = {1: 0x80, 2: 0x01, 3: 0x20, 4: 0x40, 5: 0x44}
        table = tmp_path / "if_inet6"
        rows = [f"20010db80000000000000000{number:08x} 02 40 00 {flag:02x}     eth0" for number, flag in flags.items()]
        table.write_text("\n".join([*rows, "00000000000000000000000000000001 01 80 10 80       lo", ""]))
        monkeypatch.setattr(interfaces, "IF_INET6", str(table))
        assert listed() == [
            local("127.0.0.1", "lo"),
            local("::1", "lo"),
            local("192.0.2.1"),
            local("2001:db8::1"),
            local("2001:db8::2", **TEMPORARY),
            local("2001:db8::3", **UNFIT),
            local("2001:db8::4", **UNFIT),
            local("2001:db8::5"),
            local("fe80::1%2"),
        ]
        assert ice.get_host_addresses(use_ipv4=True, use_ipv6=True) == ["192.0.2.1", "2001:db8::2"]

    @pytest.mark.parametrize("text", ["", "junk\n", "20010db8 02\n", "zz 1 2 3 4 5\n"])
    def test_flags_that_cannot_be_read(self, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        Adapters(monkeypatch, eth0=["2001:db8::1"])
        table = tmp_path / "if_inet6"
        table.write_text(text)
        for path in (table, tmp_path / "missing"):
            monkeypatch.setattr(interfaces, "IF_INET6", str(path))
            assert listed() == [local("2001:db8::1")]

    def test_no_flags_are_asked_for_ipv4(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Adapters(monkeypatch, eth0=["192.0.2.1"])
        monkeypatch.setattr(interfaces, "read_flags", None)
        assert listed() == [local("192.0.2.1")]

    def test_this_host(self) -> None:
        """Every address that is chosen can be bound."""
        everything = HostFilter(include_loopback=True)
        hosts = host_addresses(True, True, everything)
        assert "127.0.0.1" in hosts
        for host in hosts:
            info = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
            with socket.socket(info[0], socket.SOCK_DGRAM) as sock:
                sock.bind(info[4])


class TestDefaultRoute:
    """The addresses from which the system sends to the Internet, where it does not list them (Android, sandboxes)."""

    @pytest.fixture
    def routes(self, monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[Any, ...]]:
        """What a connected socket is bound to; a family without a route is missing."""
        routes: dict[int, tuple[Any, ...]] = {}

        class Routed:
            def __init__(self, family: int, kind: int) -> None:
                assert kind == socket.SOCK_DGRAM
                self.family = family

            def __enter__(self) -> Routed:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def connect(self, peer: tuple[str, int]) -> None:
                assert ip_address(peer[0]) and ip_address(peer[0]).is_private  # the documentation's, to Python
                if self.family not in routes:
                    raise OSError(errno.ENETUNREACH, "Network is unreachable")

            def getsockname(self) -> tuple[Any, ...]:
                return routes[self.family]

        monkeypatch.setattr(interfaces.socket, "socket", Routed)
        return routes

    @pytest.mark.parametrize(
        "failure", [PermissionError(errno.EACCES, "denied"), OSError(errno.ENOMEM, ""), AttributeError(), None]
    )
    def test_where_listing_is_forbidden_or_empty(
        self, failure: Exception | None, routes: dict[int, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def listing() -> list[Any]:
            if failure is not None:
                raise failure
            return []

        monkeypatch.setattr(ifaddr, "get_adapters", listing)
        assert host_addresses(True, True) == []
        routes[socket.AF_INET] = ("192.0.2.7", 40000)
        assert host_addresses(True, True) == ["192.0.2.7"]
        routes[socket.AF_INET6] = ("2001:db8::7", 40000, 0, 0)
        assert ice.get_host_addresses(use_ipv4=True, use_ipv6=True) == ["192.0.2.7", "2001:db8::7"]
        assert ice.get_host_addresses(use_ipv4=True, use_ipv6=False) == ["192.0.2.7"]
        assert host_addresses(False, True) == ["2001:db8::7"]
        assert host_addresses(True, True, HostFilter(addresses=["2001:db8::/32"])) == ["2001:db8::7"]
        assert host_addresses(True, True, HostFilter(interfaces=["*"])) == []

    def test_not_where_a_program_lists_others(
        self, routes: dict[int, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A replaced ifaddr.get_adapters hides the rest on purpose."""
        routes[socket.AF_INET] = ("192.0.2.7", 40000)
        Adapters(monkeypatch, eth0=["2001:db8::1"])
        assert host_addresses(True, True) == ["2001:db8::1"]
        assert host_addresses(True, False) == []

    def test_a_route_to_nowhere(self, routes: dict[int, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ifaddr, "get_adapters", lambda: [])
        routes[socket.AF_INET] = ("127.0.0.1", 40000)
        routes[socket.AF_INET6] = ("fe80::1%eth0", 40000, 0, 2)
        assert host_addresses(True, True) == ["fe80::1%2"]
