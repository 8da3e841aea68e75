"""The HTTP port: metrics and health, for Prometheus and for probes; the page and its API, for people."""

from ntm_serve.http.api import Api, ApiFacts
from ntm_serve.http.gate import HttpGate
from ntm_serve.http.page import page_routes
from ntm_serve.http.server import HttpServer

__all__ = ["Api", "ApiFacts", "HttpGate", "HttpServer", "page_routes"]
