"""The HTTP port: metrics and health, for Prometheus and for probes."""

from ntm_serve.http.server import HttpServer

__all__ = ["HttpServer"]
