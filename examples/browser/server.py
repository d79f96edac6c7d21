"""A browser talks to this program over a data channel; see README.md beside it.

python server.py [--host ADDRESS] [--port PORT]
"""

from __future__ import annotations

import argparse
import asyncio
import json
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription

PAGE = Path(__file__).with_name("index.html")
#: Bytes of an offer, and seconds for the answer to it.
MAX_OFFER = 65536
PATIENCE = 10


class Calls:
    """The peer connections, on the event loop."""

    def __init__(self) -> None:
        self._connections: set[RTCPeerConnection] = set()

    async def answer(self, offer: dict[str, str]) -> dict[str, str]:
        """Take a browser's offer, and from then on say everything that comes over its channels once more."""
        connection = RTCPeerConnection()
        self._connections.add(connection)

        @connection.on("datachannel")
        def opened(channel: RTCDataChannel) -> None:
            channel.on("message", lambda message: channel.send(f"you said: {message}"))

        @connection.on("connectionstatechange")
        async def changed() -> None:
            print(connection.connectionState, flush=True)
            if connection.connectionState in ("failed", "closed"):
                self._connections.discard(connection)
                await connection.close()

        try:
            await connection.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
            await connection.setLocalDescription(await connection.createAnswer())
        except BaseException:
            await connection.close()
            raise
        return {"sdp": connection.localDescription.sdp, "type": connection.localDescription.type}

    async def close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in list(self._connections)))


class Handler(BaseHTTPRequestHandler):
    """The page, and the signalling: an offer is posted, the answer comes back. Runs in a thread for each request."""

    def __init__(self, calls: Calls, loop: asyncio.AbstractEventLoop, *args: Any) -> None:
        self._calls, self._loop = calls, loop
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path == "/":
            self._reply(200, "text/html; charset=utf-8", PAGE.read_bytes())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        try:
            size = int(self.headers["Content-Length"])
            if self.path != "/offer" or not 0 < size <= MAX_OFFER:
                raise ValueError("not an offer")
            offer = json.loads(self.rfile.read(size))
            answering = asyncio.run_coroutine_threadsafe(self._calls.answer(offer), self._loop)
            answer = answering.result(PATIENCE)
        except (ValueError, TypeError, KeyError) as error:
            self.send_error(400, explain=ascii(str(error)))
        else:
            self._reply(200, "application/json", json.dumps(answer).encode())

    def _reply(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


async def serve(host: str, port: int) -> None:
    calls = Calls()
    server = ThreadingHTTPServer((host, port), partial(Handler, calls, asyncio.get_running_loop()))
    Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://{host}:{server.server_port}/", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await calls.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A data channel with a browser.")
    parser.add_argument("--host", default="127.0.0.1", help="address of the page (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="its port, 0 for any (default: 8080)")
    options = parser.parse_args()
    try:
        asyncio.run(serve(options.host, options.port))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
