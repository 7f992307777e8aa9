"""Asks for a flow run per line of stdin (https://docs.prefect.io/v3/how-to-guides/deployments/run-deployments)."""

import json
import sys

from jobs import accepted
from prefect.deployments import run_deployment

for line in sys.stdin:
    job = json.loads(line)
    run_deployment("video/video", parameters=job, timeout=0)
    accepted(job["job"])
