"""What goes into a machine and comes out of it, as values that JSON knows, and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from . import agent, gathering, machine, rewrites, servers
from .address import canonical_host
from .candidate import Candidate
from .machine import Reason
from .pseudonyms import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Values that are credentials, by the names of the fields and parameters that hold them.
_SECRETS = {
    "username",
    "password",
    "local_username",
    "local_password",
    "remote_username",
    "remote_password",
    "credential",
    "secret",
    "token",
    "access_token",
}
#: Those of them that sign checks.
_CHECK_KEYS = {"password", "local_password", "remote_password"}
#: Names of servers.
_HOSTS = {"host", "name", "server_name"}
#: What is application data, where ``data`` is not a datagram or a frame.
_PAYLOADS = {"relay", "Deliver"}

#: Sets, which JSON does not know.
_SETS = {"candidate_types"}

_ZEROS = re.compile(b"\\0{16,}")


class Coder:
    """Turns values into JSON's and back; ``names`` says what is to be called otherwise."""

    def __init__(self, names: Names) -> None:
        self.names = names

    # -------------------------------------------------------------------------------------------------------- to JSON

    def encode(self, value: Any, key: str = "", owner: str = "") -> Any:
        """``key`` is the field or parameter that holds the value, ``owner`` the record or verb that this is part of."""
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, str):
            return self._text(value, key, owner) if type(value) is str else str(value)
        if isinstance(value, bytes):
            return {"bytes": pack(self._bytes(value, key, owner))}
        if isinstance(value, Candidate):
            return self._candidate(value)
        fields = getattr(value, "_fields", None)
        if isinstance(value, tuple) and fields is not None:
            return self._record(type(value).__name__, dict(zip(fields, value, strict=True)))
        if isinstance(value, dict):
            return {"map": [[self.encode(name), self.encode(item, key, owner)] for name, item in value.items()]}
        if isinstance(value, frozenset):
            return sorted(value)
        if isinstance(value, tuple | list):
            return [self.encode(item, key, owner) for item in value]
        return self._record(type(value).__name__, {name: getattr(value, name) for name in _slots(value)})

    def _record(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": name, **self.fields(values, name)}

    def fields(self, values: Mapping[str, Any], owner: str) -> dict[str, Any]:
        username, password = values.get("username"), values.get("password")
        if isinstance(username, str) and isinstance(password, str):
            self.names.learn_user(username, password)
        for key in _CHECK_KEYS & values.keys():
            if isinstance(values[key], str):
                self.names.learn(values[key])
        return {key: self.encode(value, key, owner) for key, value in values.items()}

    def _text(self, text: str, key: str, owner: str) -> str:
        if key in _SECRETS:
            return self.names.secret(text)
        if (owner, key) == ("CredentialsFetched", "detail") and text:
            # The application's own words: whoever cannot fetch a secret may quote what it asked with.
            return "the callback for the credentials failed"
        if key == "foundation":
            return self.names.foundation(text)
        if owner == "AddressRewrite" and "/" in text:
            return self.names.network(text)
        if key in _HOSTS or _is_address(text):
            return self.names.host(text)
        return self.names.text(text)

    def _bytes(self, value: bytes, key: str, owner: str) -> bytes:
        if key == "data":
            return self.names.payload(value) if owner in _PAYLOADS else self.names.packet(value)
        return self.names.payload(value) if key in _SECRETS else value

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        candidate = self.names.candidate(candidate)
        shown = {"candidate": candidate.to_sdp()}
        if candidate.address != candidate.host:
            shown["address"] = candidate.address
        return shown

    # ------------------------------------------------------------------------------------------------------- from JSON

    def decode(self, value: Any, key: str = "") -> Any:
        """What :meth:`encode` has made from an input; ValueError for everything else."""
        if isinstance(value, list):
            return (frozenset if key in _SETS else tuple)(self.decode(item) for item in value)
        if not isinstance(value, dict):
            return Reason(value) if key == "reason" and isinstance(value, str) else value
        if "bytes" in value:
            return unpack(value["bytes"])
        if "map" in value:
            return {self.decode(name): self.decode(item) for name, item in value["map"]}
        if "candidate" in value:
            candidate = Candidate.from_sdp(value["candidate"])
            if "address" in value:
                candidate.address = value["address"]
            return candidate
        kind = _RECORDS.get(value.get("type", ""))
        if kind is None:
            raise ValueError(f"a value of an unknown kind: {value.get('type')!a}")
        try:
            return kind(**{name: self.decode(item, name) for name, item in value.items() if name != "type"})
        except TypeError as exc:
            raise ValueError(str(exc)) from None


#: The records that are part of inputs.
_RECORDS: dict[str, Any] = {
    name: kind
    for module in (machine, servers, rewrites, gathering, agent)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
}


def pack(data: bytes) -> str:
    """Hexadecimal digits; 16 zeros or more are their number in parentheses."""
    if not _ZEROS.search(data):
        return data.hex()
    text, end = "", 0
    for match in _ZEROS.finditer(data):
        text += f"{data[end : match.start()].hex()}({len(match[0])})"
        end = match.end()
    return text + data[end:].hex()


def unpack(text: str) -> bytes:
    """What :func:`pack` has made, 64 KiB at most."""
    parts = re.split(r"\((\d{1,5})\)", text)
    data = b"".join(bytes(int(part)) if index % 2 else bytes.fromhex(part) for index, part in enumerate(parts))
    if len(data) > 1 << 16:
        raise ValueError("a datagram of more than 64 KiB")
    return data


def _slots(value: object) -> list[str]:
    names = []
    for kind in reversed(type(value).__mro__):
        slots = kind.__dict__.get("__slots__", ())
        names += [name for name in ((slots,) if isinstance(slots, str) else slots) if not name.startswith("_")]
    return names


def _is_address(text: str) -> bool:
    try:
        return bool(canonical_host(text))
    except ValueError:
        return False
