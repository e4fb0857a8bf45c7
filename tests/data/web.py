"""A web server of a test's own, which answers as the test says: late, short, wrong."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext

Answer = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """Answers by path; `asked` has the headers of each request."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.port: int = server.server_address[1]
        self.pages: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, path: str, *answers: Answer) -> None:
        """What is answered, one after the other; the last one for ever."""
        self.pages[path] = list(answers)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    """An answer whose headers are written with `_` for `-`."""

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return send


@contextmanager
def serving(context: SSLContext | None = None) -> Iterator[Web]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            web.asked.append((self.path, dict(self.headers)))
            answers = web.pages.get(path) or [answer(404)]
            (answers.pop(0) if len(answers) > 1 else answers[0])(self)

        do_HEAD = do_GET  # noqa: N815  # as http.server calls it

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Callers leave; that is what is tested."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        web = Web(server)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()
