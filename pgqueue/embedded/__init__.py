"""A PostgreSQL server of one's own, for use where no DSN is given.

`resolve_dsn` says where the database is, and starts a server in the data directory when nothing
else names one. The server listens on a Unix socket that only its owner can reach, never on TCP;
it outlives the process that started it, and the next `Server.start` adopts it.
"""

from pgqueue.embedded.binaries import Binaries, find_binaries
from pgqueue.embedded.resolve import Resolved, default_server, resolve_dsn
from pgqueue.embedded.server import Server, Status

__all__ = ["Binaries", "Resolved", "Server", "Status", "default_server", "find_binaries", "resolve_dsn"]
