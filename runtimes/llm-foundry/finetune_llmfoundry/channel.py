"""What a worker process tells its supervisor: one JSON object a packet over a socket pair, never waiting in a step."""

import json
import os
import socket

VARIABLE = "FINETUNE_CHANNEL"
PACKET_LIMIT = 64 * 1024
PATIENCE = 5.0


def pair():
    """The supervisor's end and the worker's end."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """The worker's end. Without a supervisor (a process started by hand) everything is dropped."""

    def __init__(self, end=None):
        self.end = end

    @classmethod
    def from_environment(cls):
        number = os.environ.pop(VARIABLE, "")
        return cls(socket.socket(fileno=int(number))) if number else cls()

    def send(self, kind, wait=False, **content):
        """Send; with `wait` try for some seconds, else drop the packet when the supervisor is behind."""
        if self.end is None:
            return False
        data = json.dumps({"kind": kind, **content}).encode()[:PACKET_LIMIT]
        try:
            self.end.settimeout(PATIENCE if wait else 0.0)
            self.end.sendall(data)
            return True
        except OSError:
            return False


def receive(end):
    """Packets from a worker until it is gone; whatever is no JSON object is skipped."""
    while True:
        try:
            data = end.recv(PACKET_LIMIT)
        except OSError:
            return
        if not data:
            return
        try:
            packet = json.loads(data)
        except ValueError:
            continue
        if isinstance(packet, dict):
            yield packet
