"""Machines without I/O: bytes and the time go in, an ordered queue of outputs comes out."""
