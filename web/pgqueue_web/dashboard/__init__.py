"""The dashboard: pages that the server renders, over the same services as the HTTP interface."""

from pgqueue_web.dashboard.routes import ROUTERS, page_or

__all__ = ["ROUTERS", "page_or"]
