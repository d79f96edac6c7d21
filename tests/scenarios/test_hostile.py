"""What strangers, and peers that misbehave, can do to an agent, and what not."""

from __future__ import annotations

import hmac
from random import Random

import pytest

from aioice.core.generation import MAX_EARLY_CHECKS, MAX_PEER_REFLEXIVE, MAX_REMOTE_CANDIDATES
from aioice.core.machine import LinkClosed, Reason, SendFailed
from aioice.core.message import Class, Message, Method, parse_message
from aioice.sim import World
from tests.scenarios.support import Address, Peer, Puppet, host_candidate, pair, puppeteer


def raw_answers(puppet: Puppet, data: bytes, agent: Peer) -> list[Message]:
    """What comes back to the puppet within 100 ms of sending ``data``."""
    before = len(puppet.seen)
    puppet.socket.send(agent.address, data)
    agent.world.run(until=agent.world.now + 0.1)
    return [message for _, _, message in puppet.seen[before:] if message.message_class is not Class.REQUEST]


class TestStrangers:
    """RFC 8489 §9.1.3: who cannot sign gets 400 or 401, unsigned, short and seldom."""

    def stranger(self) -> tuple[World, Peer, Puppet]:
        world, agent, _ = puppeteer()
        return world, agent, Puppet(world.host("192.0.2.66"))

    def test_no_credentials(self) -> None:
        _, agent, stranger = self.stranger()
        message = Message(Method.BINDING, Class.REQUEST, bytes(12), {"SOFTWARE": "x" * 20})
        (answer,) = raw_answers(stranger, bytes(message), agent)
        assert answer.error_code == 400
        assert "MESSAGE-INTEGRITY" not in answer.attributes

    def test_an_answer_is_never_longer_than_the_request(self) -> None:
        """A bare request of 20 bytes draws none; others none that is longer."""
        _, agent, stranger = self.stranger()
        assert raw_answers(stranger, bytes(Message(Method.BINDING, Class.REQUEST, bytes(12))), agent) == []
        requests = [bytes(stranger.request(agent, password="wrong password wrong pw"))]
        requests += [bytes(Message(Method.BINDING, Class.REQUEST, bytes(12), {"SOFTWARE": "x" * n})) for n in range(30)]
        requests.append(requests[-1][:2] + b"\x00\x08" + requests[-1][4:20] + b"\x7f\xff\x00\x04abcd")
        for data in requests:
            agent.world.run(until=agent.world.now + 2)
            for answer in raw_answers(stranger, data, agent):
                assert len(bytes(answer)) <= len(data)
        sent = [packet for packet in agent.world.packets if packet.dst == stranger.address]
        assert len(sent) > 5

    @pytest.mark.parametrize(
        "wrong",
        [{"password": "not the right password"}, {"username": "nobody:pupp"}, {"username": "agnt:other"}],
        ids=str,
    )
    def test_wrong_credentials(self, wrong: dict[str, str]) -> None:
        """401, whichever part is wrong; no state."""
        _, agent, stranger = self.stranger()
        (answer,) = raw_answers(stranger, bytes(stranger.request(agent, **wrong)), agent)
        assert answer.error_code == 401
        assert "MESSAGE-INTEGRITY" not in answer.attributes
        assert agent.agent.check_list == [] and agent.node.accepts == {}
        assert agent.agent.drops["request not authentic"] == 1

    def test_a_few_answers_a_second(self) -> None:
        """For each source host; a flood from one costs another nothing."""
        world, agent, stranger = self.stranger()
        other = Puppet(world.host("192.0.2.67"))
        bad = bytes(stranger.request(agent, password="not the right password"))
        for number in range(1000):
            world.at(number / 100, stranger.socket.send, agent.address, bad)
        world.at(5.0, other.socket.send, agent.address, bad)
        world.run(until=11)
        assert 40 <= len(stranger.seen) <= 48
        assert len(other.seen) == 1
        assert len(agent.sent) == len(stranger.seen) + 1

    def test_many_sources_do_not_fill_the_memory(self) -> None:
        world, agent, stranger = self.stranger()
        bad = bytes(stranger.request(agent, password="not the right password"))
        link = next(iter(agent.node.links))
        for number in range(1000):
            agent.node.do(agent.agent.handle_datagram, link, (f"198.51.{number // 250}.{number % 250}", 9), bad)
        assert agent.agent.drops["request not authentic"] == 1000

    def test_unknown_attributes(self) -> None:
        """420 with their types, signed, and only for whom we know (RFC 8489 §6.3.1, §9.1.3)."""
        world, agent, puppet = puppeteer()

        def with_unknown(key: str) -> bytes:
            message = bytes(puppet.request(agent))[:-32]  # without MESSAGE-INTEGRITY and FINGERPRINT
            message = message[:2] + (len(message) - 12).to_bytes(2, "big") + message[4:] + b"\x7f\x01\x00\x04abcd"
            signed = parse_message(message)
            assert signed.unknown_required == (0x7F01,)
            return resigned(message, key)

        (answer,) = raw_answers(puppet, with_unknown(agent.password), agent)
        assert answer.error_code == 420
        assert answer.attributes["UNKNOWN-ATTRIBUTES"] == [0x7F01]
        assert answer.check_message_integrity(agent.password.encode())
        (answer,) = raw_answers(puppet, with_unknown("not the right password"), agent)
        assert answer.error_code == 401
        assert agent.agent.check_list == []

    def test_f09_indications(self) -> None:
        """OBS over WHIP: no answer, no event, whatever they carry."""
        _, agent, stranger = self.stranger()
        events = len(agent.told)
        for data in (
            "001100002112a442000102030405060708090a0b",
            "001100082112a442000102030405060708090a0b7fff000461626364",
        ):
            assert raw_answers(stranger, bytes.fromhex(data), agent) == []
        assert len(agent.told) == events

    @pytest.mark.parametrize(
        "data",
        [
            "000100002112a442000102030405060708090a",
            "010100042112a442000102030405060708090a0b00200000",
            "0001000c2112a442000102030405060708090a0b002400086e7f1eff00000000",
            "020000002112a442000102030405060708090a0b",
            "000100032112a442000102030405060708090a0b616263",
            "010100182112a442000102030405060708090a0b0020000800013246e112a6430020000800013247e776d744",
            "000100642112a442",
        ],
        ids=["F06 short", "F05 empty address", "F04 long PRIORITY", "X02 method", "X04 length", "X03 twice", "header"],
    )
    def test_what_looks_like_stun_is_never_data(self, data: str) -> None:
        """RFC 7983 §7, RFC 8489 §5: dropped and counted."""
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=True)
        world.run(until=0.5)
        before = sum(agent.agent.drops.values())
        puppet.socket.send(agent.address, bytes.fromhex(data))
        world.run(until=0.6)
        assert agent.received() == []
        assert agent.complete
        assert sum(agent.agent.drops.values()) == before + (data[:4] != "0101" or "0001324" not in data)

    def test_random_packets(self) -> None:
        """A thousand of them, and as many mutations of a good check: still connected, nothing delivered."""
        random = Random(5)
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=True)
        world.run(until=0.5)
        stranger = Puppet(world.host("192.0.2.66"))
        good = bytes(stranger.request(agent))
        link = next(iter(agent.node.links))
        for _ in range(1000):
            noise = random.randbytes(random.randrange(1, 200))
            mutated = bytearray(good)
            # What comes after MESSAGE-INTEGRITY is not protected by it.
            for place in random.sample(range(len(good) - 8), random.randrange(1, 4)):
                mutated[place] ^= random.randrange(1, 256)
            for data in (noise, noise[:4] + b"\x21\x12\xa4\x42" + noise[8:], bytes(mutated)):
                stranger.socket.send(agent.address, data)
                agent.node.do(agent.agent.handle_datagram, link, ("192.0.2.66", 4), data)
        world.run(until=2)
        assert agent.complete
        assert agent.received() == []
        puppet.send(agent, b"fine")
        world.run(until=3)
        assert agent.received() == [b"fine"]


class TestData:
    def test_f23_strangers(self) -> None:
        """sipsorcery-org/sipsorcery#1601: a thousand datagrams before and after connecting, dropped and counted."""
        world, agent, puppet = puppeteer()
        stranger = Puppet(world.host("192.0.2.66"))
        for number in range(1000):
            world.at(number / 1000, stranger.send, agent, b"\x16evil")
        world.at(0.5, lambda: puppet.check(agent, nominate=True))
        world.at(0.9, puppet.send, agent, b"good")
        world.run(until=2)
        assert agent.received() == [b"good"]
        assert agent.node.unwanted == 1000

    def test_f22_never_sent_to_who_did_not_answer(self) -> None:
        """pion/ice#21: an authenticated check from a source that answers nothing (RFC 8445 §19.5)."""
        world, agent, puppet = puppeteer()
        puppet.answering = False
        puppet.check(agent, nominate=True)
        world.run(until=30)
        assert agent.node.routes == {}
        with pytest.raises(ConnectionError):
            agent.send(b"data")
        assert puppet.data == []
        # What it draws is bounded: one check and its six retransmissions.
        assert len(puppet.requests) <= 7

    def test_data_right_after_an_authenticated_check(self) -> None:
        """RFC 8445 §12.2: our answer, and our own check, are lost; the peer has a valid pair from another check."""
        world, agent, puppet = puppeteer()
        world.drop(lambda packet: packet.src == agent.address)
        puppet.check(agent)
        puppet.send(agent, b"early")
        world.run(until=0.2)
        assert not agent.live
        assert agent.received() == [b"early"]

    def test_not_before(self) -> None:
        world, agent, puppet = puppeteer()
        puppet.send(agent, b"too early")
        puppet.check(agent)
        puppet.send(agent, b"in time")
        world.run(until=0.2)
        assert agent.received() == [b"in time"]

    def test_before_connect(self) -> None:
        """The peer may be faster than our signalling; 0.13.0 delivered even what nobody had signed."""
        world, agent, puppet = puppeteer(connect=False)
        puppet.send(agent, b"unsigned")
        puppet.check(agent)
        puppet.send(agent, b"signed")
        world.run(until=0.2)
        assert agent.received() == [b"signed"]

    def test_nothing_after_close(self) -> None:
        p = pair()
        p.connect()
        p.left.close()
        p.right.send(b"late")
        p.world.run(until=2)
        assert p.left.received() == []


class TestAnswers:
    """A response is judged after its integrity, and only from where it was asked (RFC 8445 §7.2.5.2.1)."""

    def asked(self) -> tuple[World, Peer, Puppet, Message]:
        world, agent, puppet = puppeteer(controlling=True)
        puppet.answering = False
        agent.add(puppet.candidate)
        world.run(until=0.1)
        return world, agent, puppet, puppet.requests[0][1]

    def test_from_another_address(self) -> None:
        world, agent, puppet, request = self.asked()
        other = Puppet(world.host("192.0.2.66"))
        other.socket.send(agent.address, puppet.answer(request, agent.address))
        world.run(until=0.3)
        assert [str(p.state) for p in agent.agent.check_list] == ["failed"]
        assert agent.node.routes == {} and agent.node.accepts == {}
        assert agent.agent.drops["answer from elsewhere"] == 1

    def test_from_another_address_and_unsigned(self) -> None:
        """Changes nothing: the right answer still counts."""
        world, agent, puppet, request = self.asked()
        other = Puppet(world.host("192.0.2.66"))
        forged = Message(
            Method.BINDING, Class.RESPONSE, request.transaction_id, {"XOR-MAPPED-ADDRESS": ("192.0.2.66", 1)}
        )
        forged.add_fingerprint()
        other.socket.send(agent.address, bytes(forged))
        puppet.socket.send(agent.address, bytes(forged))
        world.run(until=0.2)
        assert agent.agent.drops["answer not authentic"] == 2
        puppet.socket.send(agent.address, puppet.answer(request, agent.address))
        world.run(until=0.3)
        assert agent.routed == {1: puppet.address}

    def test_signed_with_our_own_password(self) -> None:
        """A reflection: answers are signed with the peer's."""
        world, agent, puppet, request = self.asked()
        puppet.password, good = agent.password, puppet.password
        puppet.socket.send(agent.address, puppet.answer(request, agent.address))
        world.run(until=0.3)
        assert agent.node.routes == {}
        assert good != agent.password

    def test_unknown_attributes_in_a_signed_answer(self) -> None:
        """RFC 8489 §6.3.3: the transaction fails."""
        world, agent, puppet, request = self.asked()
        answer = puppet.answer(request, agent.address)[:-32] + b"\x7f\x01\x00\x04abcd"
        puppet.socket.send(agent.address, resigned(answer, puppet.password))
        world.run(until=0.3)
        (failed,) = agent.agent.check_list
        assert (str(failed.state), failed.why_failed) == ("failed", "answer with unknown attributes")

    def test_without_a_mapped_address(self) -> None:
        world, agent, puppet, request = self.asked()
        puppet.socket.send(agent.address, puppet.answer(request, agent.address, SOFTWARE="none"))
        world.run(until=0.3)
        assert agent.node.routes == {}
        assert agent.agent.drops["malformed"] == 1

    def test_twice(self) -> None:
        """The second finds no transaction."""
        world, agent, puppet, request = self.asked()
        for _ in range(2):
            puppet.socket.send(agent.address, puppet.answer(request, agent.address))
        world.run(until=0.3)
        assert agent.routed == {1: puppet.address}


def resigned(body: bytes, password: str) -> bytes:
    """A message without integrity, with attributes that the codec does not know, signed."""
    body = body[:2] + (len(body) + 4).to_bytes(2, "big") + body[4:]
    return body + b"\x00\x08\x00\x14" + hmac.digest(password.encode(), body, "sha1")


class TestFloods:
    def test_early_checks(self) -> None:
        """Bounded, the newest are kept."""
        world, agent, puppet = puppeteer(connect=False)
        host = world.host("192.0.2.7")
        sources = [Puppet(host, port=1000 + i) for i in range(MAX_EARLY_CHECKS + 50)]
        for source in sources:
            source.check(agent)
        world.run(until=0.1)
        assert agent.agent.check_list == [] and agent.agent.remote_candidates == []
        agent.connect(puppet)
        assert len(agent.agent.check_list) == MAX_PEER_REFLEXIVE
        assert agent.agent.check_list[0].peer[1] >= 1050

    def test_early_checks_of_another_session(self) -> None:
        world, agent, puppet = puppeteer(connect=False)
        puppet.check(agent, username=f"{agent.username}:other")
        puppet.check(agent)
        world.run(until=0.1)
        agent.connect(puppet)
        assert len(agent.agent.check_list) == 1
        assert agent.agent.drops["check of another session"] == 1

    def test_peer_reflexive_candidates(self) -> None:
        """A peer that checks from a thousand ports: bounded pairs, candidates and checks, and its good pair stays."""
        world, agent, puppet = puppeteer()
        puppet.check(agent, nominate=False)
        world.run(until=0.5)
        host = world.host("192.0.2.7")
        for number in range(1000):
            source = Puppet(host, port=1000 + number)
            source.answering = False
            world.at(0.5 + number / 1000, lambda s=source: s.check(agent))
        world.run(until=3)
        assert len(agent.agent.check_list) == MAX_PEER_REFLEXIVE
        assert len(agent.agent.remote_candidates) == MAX_PEER_REFLEXIVE
        assert agent.routed == {1: puppet.address}
        assert len(agent.node.accepts) <= 256
        puppet.check(agent, nominate=True)
        world.run(until=4)
        assert agent.complete

    def test_a_captured_check_from_many_ports(self) -> None:
        """It takes no place from the real peer: its candidates are paired and its data is delivered."""
        world, agent, puppet = puppeteer(connect=False)
        host = world.host("192.0.2.7")
        for number in range(400):
            source = Puppet(host, port=1000 + number)
            source.answering = False
            source.check(agent)
        world.run(until=0.2)
        agent.add(f"1 1 udp 2130706431 {puppet.address[0]} {puppet.address[1]} typ host")
        agent.connect(puppet)
        puppet.check(agent, nominate=True)
        world.run(until=1)
        assert agent.complete and agent.routed == {1: puppet.address}
        puppet.send(agent, b"data")
        world.run(until=2)
        assert agent.received() == [b"data"]

    def test_requests_in_flight(self) -> None:
        """An authentic peer that repeats its check and answers none of ours: few of them are remembered."""
        world, agent, puppet = puppeteer()
        puppet.answering = False
        for number in range(2000):
            world.at(number * 0.006, lambda: puppet.check(agent))
        world.run(until=12)
        assert len(agent.agent._checker._requests) <= 5

    def test_one_pair_is_not_checked_faster_than_ta(self) -> None:
        """A peer that checks a thousand times a second without answering."""
        world, agent, puppet = puppeteer()
        puppet.answering = False
        for number in range(1000):
            world.at(number / 1000, lambda: puppet.check(agent))
        world.run(until=1.1)
        assert len(agent.checks) <= 1.1 / 0.005

    def test_names(self) -> None:
        """Look-ups are bounded as candidates are."""
        _, agent, _ = puppeteer()
        agent.add(*(f"1 1 udp 1 host-{i}.local 9 typ host" for i in range(400)))
        assert len(agent.agent.remote_candidates) == MAX_REMOTE_CANDIDATES

    def test_candidates_that_aim_at_a_victim(self) -> None:
        """RFC 8445 §19.5.1: at most 100 checks of seven transmissions each, 5 ms apart."""
        world, agent, _ = puppeteer(controlling=True)
        victim = Puppet(world.host("192.0.2.99"))
        victim.answering = False
        agent.add(*(host_candidate("192.0.2.99", 1 + i) for i in range(256)), None)
        world.run(until=100)
        assert len(agent.checks) <= 700


class TestSpoofedSource:
    def test_answers_go_where_the_request_came_from(self) -> None:
        """A check with somebody else's source address, replayed by an attacker on the path: the victim gets one answer
        and a bounded number of checks, no data.
        """
        world, agent, puppet = puppeteer(controlling=True)
        captured = bytes(puppet.request(agent, controlling=False))
        victim: Address = ("192.0.2.99", 5000)
        world.host(victim[0]).bind(*victim)
        link = next(iter(agent.node.links))
        for _ in range(100):
            agent.node.do(agent.agent.handle_datagram, link, victim, captured)
        world.run(until=60)
        requests = [p for p in world.packets if p.dst == victim and p.data[:2] == b"\x00\x01"]
        assert len(requests) <= 14
        assert all(p.data[:1] < b"\x40" for p in world.packets if p.dst == victim)


class TestForgedErrors:
    def test_an_answer_revives_a_pair(self) -> None:
        """RFC 8445 §7.2.5.2.2: anybody can forge an ICMP error; an authentic answer proves it wrong."""
        world, agent, puppet = puppeteer(delay=0.5)
        agent.add(f"1 1 udp 2130706431 {puppet.address[0]} {puppet.address[1]} typ host")
        world.run(until=0.1)
        link = next(iter(agent.node.links))
        agent.node.report(SendFailed(link, puppet.address, Reason.REFUSED))
        assert [pair.state for pair in agent.agent.check_list] == ["failed"]
        world.run(until=1.5)
        assert [pair.state for pair in agent.agent.check_list] == ["succeeded"]
        assert agent.routed == {1: puppet.address}


class TestLostSocket:
    def test_no_route_leads_over_it(self) -> None:
        """Two valid pairs on one socket: when it dies, neither takes the other's place."""
        world, agent, high = puppeteer(controlling=True)
        low = Puppet(world.host("192.0.2.3"), port=7001, name=high.name)
        for number, puppet in enumerate((high, low)):
            agent.add(f"{number} 1 udp {2130706431 - number} {puppet.address[0]} {puppet.address[1]} typ host")
            puppet.check(agent, controlling=False)
        world.run(until=1)
        assert [pair.state for pair in agent.agent.check_list] == ["succeeded", "succeeded"]
        agent.node.report(LinkClosed(next(iter(agent.node.links)), Reason.OTHER, "gone"))
        ((_, reason),) = agent.closed
        assert "local socket lost" in reason and agent.routed == {}
