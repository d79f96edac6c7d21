"""A libnice agent as a process of its own, for :mod:`tests.interop.test_libnice`; it runs on the system's Python.

Lines of a name and a value go out and come in: credentials, candidates, the end of them, data, and states.
"""

import ctypes
import sys
import threading

import gi

gi.require_version("Nice", "0.1")
from gi.repository import GLib, Nice  # noqa: E402

#: NiceAgentRecvFunc
RECEIVER = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p
)


def say(name: str, value: str = "") -> None:
    sys.stdout.write(f"{name} {value}\n")
    sys.stdout.flush()


def main(controlling: bool, address: str) -> None:
    loop = GLib.MainLoop()
    agent = Nice.Agent.new(loop.get_context(), Nice.Compatibility.RFC5245)
    agent.props.controlling_mode = controlling
    agent.props.upnp = False
    agent.props.ice_tcp = False
    agent.props.ice_trickle = True
    local = Nice.Address.new()
    local.set_from_string(address)
    agent.add_local_address(local)
    stream = agent.add_stream(1)
    agent.set_stream_name(stream, "application")
    state = Nice.ComponentState

    def gathered(agent: Nice.Agent, stream: int) -> None:
        _, ufrag, password = agent.get_local_credentials(stream)
        say("username", ufrag)
        say("password", password)
        for candidate in agent.get_local_candidates(stream, 1):
            say("candidate", agent.generate_local_candidate_sdp(candidate).removeprefix("a=candidate:"))
        say("end")

    @RECEIVER
    def receive(agent: int, stream: int, component: int, size: int, data: int, nothing: int) -> None:
        say("received", ctypes.string_at(data, size).hex())

    def changed(agent: Nice.Agent, stream: int, component: int, now: int) -> None:
        say("state", state(now).value_nick)

    def read() -> None:
        remote = {}
        candidates = []
        for line in sys.stdin:
            name, _, value = line.rstrip("\n").partition(" ")
            if name == "candidate":
                candidates.append(agent.parse_remote_candidate_sdp(stream, f"a=candidate:{value}"))
            elif name == "end":
                agent.set_remote_credentials(stream, remote["username"], remote["password"])
                say("taken", str(agent.set_remote_candidates(stream, 1, candidates)))
                agent.peer_candidate_gathering_done(stream)
            elif name == "send":
                agent.send(stream, 1, len(value), value)
            else:
                remote[name] = value
        GLib.idle_add(loop.quit)

    agent.connect("candidate-gathering-done", gathered)
    agent.connect("component-state-changed", changed)
    threading.Thread(target=read, daemon=True).start()
    # What gi makes of it cannot be called from Python; the hash of an object of gi is its address.
    ctypes.CDLL("libnice.so.10").nice_agent_attach_recv(
        ctypes.c_void_p(hash(agent)), stream, 1, ctypes.c_void_p(hash(loop.get_context())), receive, None
    )
    agent.gather_candidates(stream)
    loop.run()


main(sys.argv[1] == "controlling", sys.argv[2])
