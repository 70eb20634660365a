"""`python s3_app.py`: moto's server, which answers one request at a time, as S3 itself keeps its conditions.

moto looks whether an object is there and then writes it; in threads two writers may both be the first.
"""

import io
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    """A WSGI app; bodies are read before their turn, since a caller may break off in the middle of one."""

    def __init__(self, app):
        self.app, self.turn = app, threading.Lock()

    def __call__(self, environ, start_response):
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        with self.turn:
            return list(self.app(environ, start_response))


if __name__ == "__main__":
    run_simple("127.0.0.1", 0, OneAtATime(DomainDispatcherApplication(create_backend_app)), threaded=True,
               request_handler=MotoRequestHandler)
