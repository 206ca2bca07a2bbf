"""WebSockets through the gateway, with the `websockets` library on both sides.

Starts a server, prints its port, reads the gateway's address from standard input, runs every case against the gateway
and prints a line for each.
"""

import socket
import sys
import threading
import traceback

from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve


def answer(connection):
    path = connection.request.path
    if path.endswith("/close"):
        connection.close(4001, "as asked")
        return
    if path.endswith("/vanish"):
        connection.socket.shutdown(socket.SHUT_RDWR)
        return
    if path.endswith("/headers"):
        connection.send(connection.request.headers.get("KServe-Isvc-Name", "none"))
    for message in connection:
        connection.send(message)


def refuse(connection, request):
    if request.path.endswith("/refused"):
        return connection.respond(403, "not you\n")
    return None


def echo(open):
    with open("/echo") as client:
        for message in ["a", "", "é" * 1000, b"\0\1\2", b"x" * (1 << 20)]:
            client.send(message)
            assert client.recv(10) == message


def fragments(open):
    with open("/echo") as client:
        client.send(["one ", "two ", "three"])
        assert client.recv(10) == "one two three"


def many(open):
    with open("/echo") as client:
        sender = threading.Thread(target=lambda: [client.send(f"message {number}") for number in range(2000)])
        sender.start()
        assert [client.recv(10) for _ in range(2000)] == [f"message {number}" for number in range(2000)]
        sender.join()


def ping(open):
    with open("/echo") as client:
        assert client.ping().wait(10)


def subprotocol(open):
    with open("/echo", subprotocols=["v2.test", "v1.test"]) as client:
        assert client.subprotocol == "v1.test"


def compression(open):
    with open("/echo") as client:
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]


def closed_by_server(open):
    with open("/close") as client:
        try:
            client.recv(10)
            raise AssertionError("still open")
        except ConnectionClosedError as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as asked")


def closed_by_client(open):
    client = open("/echo")
    client.close(1000, "done")
    try:
        client.recv(10)
        raise AssertionError("still open")
    except ConnectionClosedOK as closed:
        assert closed.rcvd.code == 1000


def server_vanishes(open):
    with open("/vanish") as client:
        try:
            client.recv(10)
            raise AssertionError("still open")
        except ConnectionClosedError:
            pass


def refused(open):
    try:
        open("/refused")
        raise AssertionError("agreed")
    except InvalidStatus as refusal:
        assert refusal.response.status_code == 403
        assert refusal.response.body == b"not you\n"


def headers(open):
    with open("/headers") as client:
        assert client.recv(10) == "iris"


CASES = [echo, fragments, many, ping, subprotocol, compression, closed_by_server, closed_by_client, server_vanishes,
         refused, headers]


def main():
    choose = lambda connection, offered: "v1.test" if "v1.test" in offered else None
    server = serve(answer, "127.0.0.1", 0, process_request=refuse, select_subprotocol=choose, max_size=1 << 22)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.socket.getsockname()[1], flush=True)
    gateway = sys.stdin.readline().strip()
    failed = False
    for case in CASES:
        try:
            case(lambda path, **more: connect(f"ws://{gateway}/v1/models/iris{path}", proxy=None, max_size=1 << 22, **more))
            print(f"ok {case.__name__}", flush=True)
        except Exception:
            failed = True
            print(f"FAILED {case.__name__}\n{traceback.format_exc()}", flush=True)
    server.shutdown()
    sys.exit(failed)


main()
