# gunicorn -c deploy/gunicorn.conf.py choreo_wsgi:app

import os

bind = "127.0.0.1:8000"
# Each stream occupies a thread; a process can run some hundreds on a core. With more than one
# worker, resumable streams and the limits of keys need a shared store: CHOREO_REPLAY=sqlite:PATH
# or redis://...
workers = 1
worker_class = "gthread"
# The streams (CHOREO_MAX_STREAMS, 256) and 16 for everything else: with fewer threads further
# streams and the health checks would wait silently.
threads = 272
worker_connections = 1000
# gthread: the time after which an unresponsive worker is killed, not a limit for streams.
timeout = 60
# The time that running streams have to end after SIGTERM.
graceful_timeout = 20
keepalive = 20


def child_exit(server, worker):
    """Forget the gauges of a worker that is gone, where several answer /metrics as one."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)
