"""gRPC's interoperability cases through the gateway, with grpcio on both sides.

Starts a server, prints its port, reads the gateway's address from standard input, runs every case against the gateway
and prints a line for each. Messages are plain bytes: what is tested is the protocol, not protobuf.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "interop.TestService"
ECHO_INITIAL, ECHO_TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
LARGE_REQUEST, LARGE_RESPONSE = b"r" * 271828, b"a" * 314159
SIZES = [31415, 9, 2653, 58979]
REQUEST_SIZES = [27182, 8, 1828, 45904]
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
CANCELLED = threading.Event()


class Server(grpc.GenericRpcHandler):
    def service(self, call):
        kinds = {
            "Empty": grpc.unary_unary_rpc_method_handler(self.empty),
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
            "Duplex": grpc.stream_stream_rpc_method_handler(self.duplex),
            "Status": grpc.unary_unary_rpc_method_handler(self.status),
            "StreamStatus": grpc.stream_stream_rpc_method_handler(self.stream_status),
            "Sleep": grpc.stream_stream_rpc_method_handler(self.sleep),
        }
        service, method = call.method.lstrip("/").split("/")
        return kinds.get(method) if service == SERVICE else None

    def metadata(self, context):
        for key, value in context.invocation_metadata():
            if key == ECHO_INITIAL:
                context.send_initial_metadata(((key, value),))
            if key == ECHO_TRAILING:
                context.set_trailing_metadata(((key, value),))
            if key == "x-compress":
                context.set_compression(grpc.Compression.Gzip)

    def empty(self, request, context):
        return b""

    def unary(self, request, context):
        self.metadata(context)
        return LARGE_RESPONSE if request == LARGE_REQUEST else request

    def client_stream(self, requests, context):
        return str(sum(len(request) for request in requests)).encode()

    def server_stream(self, request, context):
        self.metadata(context)
        for size in SIZES:
            yield b"s" * size

    def duplex(self, requests, context):
        self.metadata(context)
        context.add_callback(lambda: None if context.is_active() else CANCELLED.set())
        for request in requests:
            yield request

    def status(self, request, context):
        context.abort(grpc.StatusCode.UNKNOWN, request.decode())

    def stream_status(self, requests, context):
        for request in requests:
            context.abort(grpc.StatusCode.UNKNOWN, request.decode())

    def sleep(self, requests, context):
        for request in requests:
            yield request
        while context.is_active():
            time.sleep(0.01)


class Cases:
    def __init__(self, channel):
        self.channel = channel

    def unary(self, method, service=SERVICE):
        return self.channel.unary_unary(f"/{service}/{method}")

    def duplex(self, method="Duplex"):
        return self.channel.stream_stream(f"/{SERVICE}/{method}")

    def empty_unary(self):
        assert self.unary("Empty")(b"", timeout=10) == b""

    def cacheable_unary(self):
        call = self.unary("Unary")
        assert [call(b"same", timeout=10) for _ in range(2)] == [b"same"] * 2

    def large_unary(self):
        assert self.unary("Unary")(LARGE_REQUEST, timeout=10) == LARGE_RESPONSE

    def client_compressed_unary(self):
        call = self.unary("Unary")
        assert call(LARGE_REQUEST, timeout=10, compression=grpc.Compression.Gzip) == LARGE_RESPONSE

    def server_compressed_unary(self):
        assert self.unary("Unary")(LARGE_REQUEST, timeout=10, metadata=(("x-compress", "1"),)) == LARGE_RESPONSE

    def client_streaming(self, compression=None):
        call = self.channel.stream_unary(f"/{SERVICE}/ClientStream")
        sent = (b"c" * size for size in REQUEST_SIZES)
        assert call(sent, timeout=10, compression=compression) == b"74922"

    def client_compressed_streaming(self):
        self.client_streaming(grpc.Compression.Gzip)

    def server_streaming(self, metadata=None):
        call = self.channel.unary_stream(f"/{SERVICE}/ServerStream")
        assert [len(one) for one in call(b"", timeout=10, metadata=metadata)] == SIZES

    def server_compressed_streaming(self):
        self.server_streaming((("x-compress", "1"),))

    def ping_pong(self):
        answered = threading.Semaphore(0)

        def pings():
            for size in REQUEST_SIZES:
                yield b"p" * size
                assert answered.acquire(timeout=10), "each answer comes before the next message is sent"

        sizes = []
        for one in self.duplex()(pings(), timeout=20):
            sizes.append(len(one))
            answered.release()
        assert sizes == REQUEST_SIZES

    def empty_stream(self):
        assert list(self.duplex()(iter(()), timeout=10)) == []

    def custom_metadata(self):
        metadata = ((ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab\x00"))
        _, call = self.unary("Unary").with_call(b"x", timeout=10, metadata=metadata)
        assert dict(call.initial_metadata())[ECHO_INITIAL] == "test_initial_metadata_value"
        assert dict(call.trailing_metadata())[ECHO_TRAILING] == b"\xab\xab\xab\x00"
        call = self.duplex()(iter([b"x"]), timeout=10, metadata=metadata)
        assert list(call) == [b"x"]
        assert dict(call.trailing_metadata())[ECHO_TRAILING] == b"\xab\xab\xab\x00"

    def fails(self, code, message, call):
        try:
            call()
        except grpc.RpcError as error:
            assert error.code() == code, error
            assert message is None or error.details() == message, repr(error.details())
        else:
            raise AssertionError("it did not fail")

    def status_code_and_message(self, message="test status message"):
        unknown = grpc.StatusCode.UNKNOWN
        self.fails(unknown, message, lambda: self.unary("Status")(message.encode(), timeout=10))
        self.fails(unknown, message, lambda: list(self.duplex("StreamStatus")(iter([message.encode()]), timeout=10)))

    def special_status_message(self):
        self.status_code_and_message(SPECIAL)

    def unimplemented_method(self):
        self.fails(grpc.StatusCode.UNIMPLEMENTED, None, lambda: self.unary("Nothing")(b"", timeout=10))

    def unimplemented_service(self):
        self.fails(grpc.StatusCode.UNIMPLEMENTED, None, lambda: self.unary("Empty", "no.Service")(b"", timeout=10))

    def cancel_after_begin(self):
        call = self.channel.stream_unary(f"/{SERVICE}/ClientStream").future(self.never())
        call.cancel()
        assert call.cancelled()

    def never(self, first=()):
        yield from first
        time.sleep(1)

    def cancel_after_first_response(self):
        CANCELLED.clear()
        call = self.duplex()(self.never([b"one"]), timeout=10)
        assert next(call) == b"one"
        call.cancel()
        self.fails(grpc.StatusCode.CANCELLED, None, lambda: list(call))
        assert CANCELLED.wait(5), "the server hears of it"

    def timeout_on_sleeping_server(self):
        call = self.duplex("Sleep")
        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, None, lambda: list(call(iter([b"x"]), timeout=0.3)))


def main():
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[Server()])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    address = sys.stdin.readline().strip()
    options = [("grpc.default_authority", "iris-default.localhost")]
    failed = 0
    with grpc.insecure_channel(address, options=options) as channel:
        cases = Cases(channel)
        helpers = ("unary", "duplex", "fails", "never")
        names = [name for name in vars(Cases) if not name.startswith("_") and name not in helpers]
        for name in names:
            try:
                getattr(cases, name)()
                print(f"ok {name}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAILED {name}: {type(error).__name__} {error}", flush=True)
    server.stop(None)
    sys.exit(1 if failed else 0)


main()
