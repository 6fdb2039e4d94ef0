"""What is below the two clients: how a socket is connected, and how one waits for it.

:mod:`.blocking` has requests connect, and threads wait; :mod:`.nonblocking` connects and waits
on the running event loop (:mod:`.loops`).  Both have ``dial`` and ``waiter``.
"""
