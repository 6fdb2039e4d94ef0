"""How requests reach a server and bytes come back.

:mod:`.blocking` has requests connect, for the sync client; :mod:`.nonblocking` has sockets on
the running event loop, for the async one.  Both have a ``Transport`` with ``send``, a
``Cancel`` that gives a call up, and an ``Answer``; what is above is written once for both.
"""
