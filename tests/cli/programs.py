"""Programs for `resilient run`, which know nothing of registries."""

from __future__ import annotations

SERVER = """
import http.server, os, signal, sys, threading
code = int(sys.argv[2]) if len(sys.argv) > 2 else 0
def told(number, frame):
    print("heard", signal.Signals(number).name, flush=True)
    if number in (signal.SIGTERM, signal.SIGINT):
        os._exit(code)
for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTTIN"):
    signal.signal(getattr(signal, name), told)
class Handler(http.server.BaseHTTPRequestHandler):
    healthy = True
    def do_GET(self):
        if self.path == "/sick":
            Handler.healthy = False
        status = 200 if Handler.healthy or self.path != "/health" else 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("open", os.getpid(), flush=True)
server.serve_forever()
"""
"""Opens the port of its first argument, says which signals it hears, ends with its second."""
