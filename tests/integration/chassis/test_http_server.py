"""The HTTP port that every process serves on."""

import socket

from services.chassis.http_server import bound_socket


def test_what_is_written_to_a_connection_is_sent_at_once() -> None:
    """An answer is written in two parts: its body must not wait until its head is acknowledged (40 ms)."""
    with (
        bound_socket("127.0.0.1:0") as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
