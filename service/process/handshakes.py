"""Refusal of new TCP connections while those in progress are still accepted."""

import ctypes
import logging
import socket
import struct

logger = logging.getLogger("limelight.supervision")

_SO_ATTACH_FILTER = 26
# Classic BPF: load byte 13 of the TCP header (its flags); drop the packet where SYN is set.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def drop_handshakes(listening: socket.socket) -> None:
    """Drop the first packet of each new connection, for every process that shares the socket.

    The client's kernel sends the packet again after a second. By then the socket is closed, so the
    connection is refused, and a load balancer tries another server. If the kernel does not support
    such filters, a warning is logged.
    """
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    # struct sock_fprog: the number of instructions, and their address.
    filter_program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
    except OSError as error:
        logger.warning("new connections cannot be dropped while closing: %s", error)
