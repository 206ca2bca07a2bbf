#!/usr/bin/env python3
"""Sends requests without a pause until its standard input ends, then prints what became of them as one JSON object.

    request_stream.py URL BODY [CONNECTIONS]

Every request is on a connection of its own but those of one sender, which keeps its connection as long as it may. An answer
other than 200 is a failure; so is a connection that is refused, or that ends before its answer. The sender that keeps its
connection may find it closed between two requests: it opens another one, and only that is counted.
"""

import http.client
import json
import sys
import threading
import time
import urllib.parse

url, body = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2]
senders = int(sys.argv[3]) if len(sys.argv) > 3 else 4
end = threading.Event()
lock = threading.Lock()
seconds, failures, reopened = [], [], [0]


def ask(connection):
    connection.request("POST", url.path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {text[:200]}")
    return answer


def send(keep):
    connection = None
    while not end.is_set():
        started = time.monotonic()
        fresh = connection is None
        try:
            connection = connection or http.client.HTTPConnection(url.hostname, url.port, timeout=60)
            answer = ask(connection)
            with lock:
                seconds.append(time.monotonic() - started)
            if not keep or answer.will_close:
                connection.close()
                connection = None
        except Exception as error:  # Whatever it is, it is what a client would see.
            connection.close()
            connection = None
            with lock:
                if fresh:
                    failures.append(f"{type(error).__name__}: {error}")
                else:
                    reopened[0] += 1


threads = [threading.Thread(target=send, args=(number == 0,)) for number in range(senders)]
for thread in threads:
    thread.start()
sys.stdin.read()
end.set()
for thread in threads:
    thread.join()
seconds.sort()
report = {
    "requests": len(seconds) + len(failures),
    "failed": len(failures),
    "reopened": reopened[0],
    "p50_ms": round(seconds[len(seconds) // 2] * 1000, 1) if seconds else None,
    "p99_ms": round(seconds[len(seconds) * 99 // 100] * 1000, 1) if seconds else None,
    "slowest_ms": round(seconds[-1] * 1000, 1) if seconds else None,
    "failures": failures[:5],
}
print(json.dumps(report))
sys.exit(1 if failures else 0)
