"""Following what happens to tasks."""

from __future__ import annotations

from pgqueue.calls.call import Call, nothing, task_key, value
from pgqueue.models import check_text

__all__ = ["fence", "follow", "is_clear", "notify", "unfollow"]


def follow(hub_id: str, scope: str, task_id: int = 0, queue_name: str = "") -> Call[None]:
    """pgqueue.follow."""
    check_text(queue_name, "queue_name")
    parameters = (hub_id, scope, task_key(task_id), queue_name)
    return Call("select pgqueue.follow(%s::uuid, %s, %s::bigint, %s)", parameters, nothing)


def unfollow(hub_id: str, scope: str | None = None, task_id: int = 0, queue_name: str = "") -> Call[None]:
    """pgqueue.unfollow: one subscription of a hub, or (scope None) all of them."""
    parameters = (hub_id, scope, task_id, queue_name)
    return Call("select pgqueue.unfollow(%s::uuid, %s, %s::bigint, %s)", parameters, nothing)


def notify(channel: str, payload: str) -> Call[None]:
    """pg_notify, for the listener's own probe."""
    return Call("select pg_notify(%s, %s)", (channel, payload), nothing)


def fence() -> Call[str]:
    """pgqueue.fence."""
    return Call("select pgqueue.fence()", (), value)


def is_clear(fence_id: str) -> Call[bool]:
    """pgqueue.is_clear."""
    return Call("select pgqueue.is_clear(%s)", (fence_id,), value)
