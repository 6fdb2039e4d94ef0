"""A script for a RawServer that stops sending before the end of the stream."""

import threading


class SilentAfter:
    """A script that sends some frames, then nothing, and sets ``closed`` when the client closes."""

    def __init__(self, *frames, head=True, body=b""):
        self.frames = frames
        self.head = head
        self.body = body
        self.silent = threading.Event()
        self.closed = threading.Event()

    def __call__(self, peer):
        if self.head:
            peer.head()
        if self.body:
            peer.send(self.body)
        for value in self.frames:
            peer.frame(value)
        self.silent.set()
        peer.wait_until_left()
        self.closed.set()
