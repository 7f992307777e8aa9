"""Deploys the flow of plain-prefect-serve to a process work pool, and becomes the pool's worker
(https://docs.prefect.io/v3/how-to-guides/deployment_infra/manage-work-pools,
https://docs.prefect.io/v3/how-to-guides/deployments/deploy-via-python).
"""

import os
import subprocess
from pathlib import Path

from prefect import flow

FLOWS = Path(__file__).parent.parent / "plain-prefect-serve"
DEPLOYED = Path(os.environ["STATE"], "deployed")

# Once: a worker that starts again finds its pool and the deployment.
if not DEPLOYED.exists():
    subprocess.run(["prefect", "work-pool", "create", "--type", "process", "videos"], check=True)
    flow.from_source(source=str(FLOWS), entrypoint="video.py:video").deploy(
        name="video", work_pool_name="videos", print_next_steps=False
    )
    DEPLOYED.touch()
# The health check only says that it is ready.
os.execvp("prefect", ["prefect", "worker", "start", "--pool", "videos", "--with-healthcheck"])
