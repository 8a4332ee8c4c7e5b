"""A client for programs that have no access to the database: the services over HTTP, async and blocking.

Names and answers are those of the services. Where the HTTP interface needs a key, the client is given one
(`pgqueue key create`).
"""

from pgqueue.errors import ConfigurationError

try:
    import httpx as _httpx  # noqa: F401
    import httpx_sse as _httpx_sse  # noqa: F401
except ImportError as error:
    raise ConfigurationError("pgqueue.http needs httpx", hint="pip install 'pgqueue[http]'") from error

from pgqueue.http.calls import TaskPage
from pgqueue.http.client import Client, Task
from pgqueue.http.sync import SyncClient, SyncTask

__all__ = ["Client", "SyncClient", "SyncTask", "Task", "TaskPage"]
