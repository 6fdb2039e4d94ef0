# gunicorn -c deploy/gunicorn.conf.py choreo_wsgi:app

import os

bind = "127.0.0.1:8000"
# A stream holds its thread; a process holds some hundreds on a core. With more than one worker
# resumable streams and the limits of keys need a store that they share: CHOREO_REPLAY=sqlite:PATH
# or redis://...
workers = 1
worker_class = "gthread"
# The streams (CHOREO_MAX_STREAMS, 256) and 16 for everything else: with fewer the stream too
# many waits in silence, and so do the health checks.
threads = 272
worker_connections = 1000
# gthread: how long a worker may be without a sign of life, not how long a stream may take.
timeout = 60
# After SIGTERM running streams may go on for so long.
graceful_timeout = 20
keepalive = 20


def child_exit(server, worker):
    """Forget the gauges of a worker that is gone, where several answer /metrics as one."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)
