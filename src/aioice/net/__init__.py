"""Sockets and the asyncio loop: what carries out the decisions of :mod:`aioice.core`, and knows nothing of ICE."""
