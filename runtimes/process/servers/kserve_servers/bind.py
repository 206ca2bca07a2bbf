"""Binds the SDK's servers to one address. By itself the SDK listens on every address of the machine.

In a container that is right. A process of the machine must not be open to the network, and the SDK has no setting for it.
"""


def only_to(address):
    """Makes servers that are started from now on listen on `address` only; nothing changes when it is empty."""
    if not address:
        return
    import uvicorn
    from grpc import aio

    configure = uvicorn.Config.__init__

    def configure_here(self, *arguments, **settings):
        configure(self, *arguments, **{**settings, "host": address})

    uvicorn.Config.__init__ = configure_here
    make_server = aio.server

    def server_here(*arguments, **settings):
        server = make_server(*arguments, **settings)
        add_port = server.add_insecure_port
        server.add_insecure_port = lambda listen: add_port(f"{address}:{listen.rpartition(':')[2]}")
        return server

    aio.server = server_here
