"""A server for the process engine's tests, of Python's own library only. Its environment says how it behaves."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading

if sys.argv[1:2] == ["exit"]:
    sys.exit(int(sys.argv[2]))

asked = os.environ
if "STUB_SAY" in asked:
    print(asked["STUB_SAY"], flush=True)
if "STUB_EXIT_CODE" in asked:
    sys.exit(int(asked["STUB_EXIT_CODE"]))
if "STUB_IGNORE_TERM" in asked:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "STUB_EAT_MIB" in asked:
    # Every page is touched, or the kernel would not count it.
    eaten = [bytearray(os.urandom(1 << 20)) for _ in range(int(asked["STUB_EAT_MIB"]))]
if "STUB_CHILD" in asked:
    # In a session of its own: it would outlive a group that is killed.
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print(f"child {child.pid}", flush=True)
if "STUB_NEVER_LISTEN" in asked:
    threading.Event().wait()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answer = {"name": self.path, "ready": True, "model": self.path, "pid": os.getpid(), "arguments": sys.argv[1:]}
        folder = next((a.split("=")[1] for a in sys.argv if a.startswith("--model_dir=")), "")
        answer["models"] = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        body = json.dumps({**answer, "environment": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.do_GET()

    def log_message(self, *_):
        pass


ports = [argument.split("=")[1] for argument in sys.argv if argument.startswith("--http_port=")]
http.server.ThreadingHTTPServer(("127.0.0.1", int(ports[-1])), Answer).serve_forever()
