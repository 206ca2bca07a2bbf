"""Takes payload events with the official CloudEvents package and tells what it understood, a JSON object a line."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.http import from_http


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event = from_http(dict(self.headers), body)
        told = {"attributes": dict(event.get_attributes()), "data": event.get_data()}
        print(json.dumps(told, default=lambda raw: raw.decode() if isinstance(raw, bytes) else str(raw)), flush=True)
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
