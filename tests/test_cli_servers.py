"""``aioice gather``, ``nat`` and ``turn`` against coturn, and against nobody."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioice.__main__ import main
from aioice.cli import nat
from aioice.cli.nat import Answer, judge
from tests.interop.coturn import PASSWORD, USERNAME, Coturn


@pytest.fixture(scope="module")
def coturn() -> Iterator[Coturn]:
    with Coturn("--allow-loopback-peers") as server:
        yield server


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("AIOICE_PASSWORD", PASSWORD)
    return ["--username", USERNAME]


def uri(server: Coturn, scheme: str = "stun", tail: str = "") -> str:
    host, port = server.tls_address if scheme == "turns" else server.address
    return f"{scheme}:{host}:{port}{tail}"


class TestGather:
    def test_without_servers(self, loopback: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["gather"]) == 0
        assert "host  127.0.0.1:" in capsys.readouterr().out

    def test_servers(
        self, coturn: Coturn, loopback: None, credentials: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        servers = ["--server", uri(coturn), "--server", uri(coturn, "turn")]
        assert main(["gather", *servers, *credentials]) == 0
        told = capsys.readouterr().out
        assert "relay  127.0.0.1:" in told and told.count("answered") == 2

    def test_json(self, coturn: Coturn, loopback: None, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["gather", "--json", "--server", uri(coturn, "turn"), "--username", USERNAME, "--password", "wrong"]
        assert main(arguments) == 1
        told = json.loads(capsys.readouterr().out)
        assert [line.split()[7] for line in told["candidates"]] == ["host"]
        assert {server["verdict"] for server in told["servers"]} == {"wrong credentials"}

    def test_wrong_calls(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.delenv("AIOICE_PASSWORD", raising=False)
        for server in ("turn:127.0.0.1", "http://127.0.0.1"):
            assert main(["gather", "--server", server]) == 2
        assert "needs --username" in capsys.readouterr().err


class TestNat:
    def test_no_nat(
        self, coturn: Coturn, loopback: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["nat", uri(coturn), uri(coturn)]) == 0
        assert "No NAT: the servers see our own address." in capsys.readouterr().out

    def test_json(self, coturn: Coturn, loopback: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["nat", "--json", uri(coturn), "stun:no.such.name.invalid"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["verdict"].startswith("no NAT") and told["servers"][0]["mapped"][0] == "127.0.0.1"
        assert told["servers"][1]["error"]

    def test_nobody(self, loopback: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("aioice.stun.RETRY_RTO", 0.01)
        assert main(["nat", "127.0.0.1"]) == 1
        assert "No server answered" in capsys.readouterr().out

    def test_wrong_calls(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["nat", "turn:127.0.0.1"]) == 2
        assert "only STUN servers over UDP" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("mapped", "verdict"),
        [
            ((), "no server could be asked"),
            ((None,), "no server answered"),
            ((("10.0.0.1", 5),), "no NAT"),
            ((("203.0.113.1", 5),), "only a second server"),
            ((("203.0.113.1", 5), ("203.0.113.1", 5)), "endpoint-independent mapping"),
            ((("203.0.113.1", 5), ("203.0.113.1", 6)), "address-dependent mapping (a symmetric NAT):"),
            ((("203.0.113.1", 5), ("203.0.113.2", 5)), "it has 2 addresses"),
        ],
    )
    def test_verdicts(self, mapped: Any, verdict: str) -> None:
        answers = []
        for number, address in enumerate(mapped):
            answers.append(answer := Answer("server"))
            answer.address, answer.mapped = (f"198.51.100.{number}", 3478), address
        assert verdict in judge([("10.0.0.1", 5)], answers)


class TestTurn:
    def test_every_transport(
        self, coturn: Coturn, tmp_path: Path, credentials: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        servers = [uri(coturn, "turn"), uri(coturn, "turn", "?transport=tcp"), uri(coturn, "turns")]
        assert main(["turn", *servers, *credentials, "--insecure"]) == 0
        told = capsys.readouterr().out
        assert told.count("works") == 3 and "over TLS" in told

    def test_json(self, coturn: Coturn, credentials: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["turn", "--json", uri(coturn, "turn"), *credentials]) == 0
        (result,) = json.loads(capsys.readouterr().out)
        assert result["error"] == "" and result["channel"] <= result["permission"]
        assert result["relayed"].startswith("127.0.0.1:")

    def test_all_ways(self, coturn: Coturn, credentials: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """The port of TLS is another one here, so that this one fails."""
        assert main(["turn", "--all", "--json", uri(coturn, "turn"), *credentials]) == 1
        results = json.loads(capsys.readouterr().out)
        assert [bool(result["error"]) for result in results] == [False, False, True]

    def test_wrong_password(self, coturn: Coturn, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["turn", uri(coturn, "turn"), "--username", USERNAME, "--password", "wrong"]) == 1
        assert "allocation" in capsys.readouterr().out

    def test_a_server_that_denies_the_peer(self, credentials: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with Coturn("--denied-peer-ip=127.0.0.1") as server:
            assert main(["turn", uri(server, "turn"), *credentials]) == 1
        assert "permission and echo: " in capsys.readouterr().out

    def test_wrong_calls(self, credentials: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["turn", "stun:127.0.0.1", *credentials]) == 2
        assert main(["turn", "turn:127.0.0.1"]) == 2


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(nat, "run", interrupted)
    assert main(["nat", "stun:127.0.0.1"]) == 130
