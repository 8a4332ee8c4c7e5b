"""An asynchronous task queue on PostgreSQL."""

__version__ = "0.1.0"
