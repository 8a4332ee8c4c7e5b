"""The worker's side of plain_sql.sql: one handler, and nothing that submits.

cd examples
pgqueue-worker plain_sql:queue_service
"""

import msgspec

from pgqueue import Database, QueueService, TaskContext

queue_service = QueueService(Database())


class Greeting(msgspec.Struct):
    """Whom to greet."""

    name: str


@queue_service.handler("greet")
async def greet(ctx: TaskContext, greeting: Greeting) -> str:
    """Greet, in the log and as the result."""
    ctx.logger.info("greeted", name=greeting.name)
    return f"Hello, {greeting.name}!"
