"""The sandbox: an HTTP server that behaves like Kling's text-to-video API in both dialects, with faults on
demand.

It stands in for Kling in the demo, in tests and in benchmarks, and needs nobody's key. What it imitates is the fact
sheet; it shares nothing with the client but the API's words (:mod:`kling_flows.upstream.constants`), so that the two
cannot be wrong in the same way.

    with SandboxServer(SandboxSettings(seconds=(0.1, 0.2))) as sandbox:
        ...  # talk to sandbox.url
"""

from kling_flows.sandbox.server import SandboxServer, Tls, run
from kling_flows.sandbox.settings import SandboxSettings, VideoSource, parse_seconds

__all__ = ["SandboxServer", "SandboxSettings", "Tls", "VideoSource", "parse_seconds", "run"]
