"""Makes the deployments in the Prefect server that serve has started, and becomes a worker of their pool."""

import os
import subprocess

os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{os.environ['PEER_PORT_2']}/api"
subprocess.run(["kling-flows", "deploy", "--quiet"], check=True)
# The health check only says that it is ready.
os.execvp(
    "prefect",
    ["prefect", "worker", "start", "--type", "kling-flows", "--pool", "kling-flows", "--with-healthcheck"],
)
