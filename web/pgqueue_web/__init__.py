"""The HTTP interface of pgqueue: a Litestar app over the services, and the server that runs it."""

from pgqueue_web.app import create_app
from pgqueue_web.context import Context
from pgqueue_web.server import Server

__all__ = ["Context", "Server", "create_app"]
