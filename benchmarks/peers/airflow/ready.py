"""Prints READY once a component reports that it is healthy
(https://airflow.apache.org/docs/apache-airflow/3.3.2/administration-and-deployment/logging-monitoring/check-health.html).
"""

import sys
import time

import httpx

api, component = sys.argv[1:]
key = {"api-server": "metadatabase"}.get(component, component.replace("-", "_"))
while True:
    try:
        response = httpx.get(f"{api}/api/v2/monitor/health", timeout=10)
        if response.is_success and response.json()[key]["status"] == "healthy":
            print("READY", flush=True)
            break
    except httpx.HTTPError:
        pass  # It does not listen yet.
    time.sleep(0.5)
