"""Connecting sockets and waiting for them, below the two clients.

The sync client uses :mod:`.blocking`: requests connects, and threads wait.  The async client
connects with :mod:`.nonblocking` and waits with :mod:`.loops`, on the running event loop.
"""
