"""Exit code 0 if the front or the runner of this container is well: `python health.py front|runner`.

A front is asked over gRPC on KLING_FLOWS_LISTEN, without TLS; a runner for its metrics on
KLING_FLOWS_RUNNER_METRICS_LISTEN.
"""

from __future__ import annotations

import os
import sys
import urllib.request

TIMEOUT = 5.0


def front_serves(listen: str) -> bool:
    """Whether the health service says SERVING."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    host, _, port = listen.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - recognised, not listened on
    with grpc.insecure_channel(f"{here}:{port}") as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT)
        except grpc.RpcError:
            return False
    return answer.status == HealthCheckResponse.SERVING


def runner_answers(listen: str) -> bool:
    """Whether the runner serves its metrics."""
    try:
        with urllib.request.urlopen(f"http://{listen}/metrics", timeout=TIMEOUT) as answer:
            return answer.status == 200
    except OSError:
        return False


def main(role: str) -> int:
    """The exit code for a role."""
    if role == "front":
        return 0 if front_serves(os.environ.get("KLING_FLOWS_LISTEN", "127.0.0.1:50051")) else 1
    return 0 if runner_answers(os.environ["KLING_FLOWS_RUNNER_METRICS_LISTEN"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
