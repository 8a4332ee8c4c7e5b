"""Imported by the server that forks processes for handlers: it dies with the worker, and its children with it."""

from __future__ import annotations

from pgqueue.worker.child import die_with_parent

die_with_parent()
