"""An HTTP/1.1 client with pooled connections, whose exchanges any thread can cancel.

``Client.send()`` returns an :class:`.Exchange` at once.  Name lookup, connecting, the TLS
handshake, sending and reading all happen inside ``Exchange.receive(timeout)``, on the calling
thread, which waits no longer than *timeout* (except for the name lookup).
"""
