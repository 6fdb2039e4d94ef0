"""The standard library's WSGI server, with a thread for each connection.

python wsgiref_program.py PORT
"""

import socketserver
import sys
from wsgiref.simple_server import WSGIServer, make_server

from choreo_wsgi import app


class ThreadedServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 512


with make_server("127.0.0.1", int(sys.argv[1]), app, ThreadedServer) as server:
    server.serve_forever()
