"""Asks for a run per line of stdin
(https://airflow.apache.org/docs/apache-airflow/3.3.2/stable-rest-api-ref.html#operation/trigger_dag_run).
"""

import asyncio
import os

import httpx
from jobs import accepted, jobs

API = f"http://127.0.0.1:{os.environ['PEER_PORT_1']}"


async def trigger(http: httpx.AsyncClient, job: dict) -> None:
    body = {"dag_run_id": job["job"], "logical_date": None, "conf": job}
    (await http.post("/api/v2/dags/video/dagRuns", json=body)).raise_for_status()
    accepted(job["job"])


async def main() -> None:
    token = httpx.get(f"{API}/auth/token").raise_for_status().json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    # A burst waits for a connection; it must not time out there.
    timeout = httpx.Timeout(60, pool=None)
    async with httpx.AsyncClient(base_url=API, headers=headers, timeout=timeout) as http, asyncio.TaskGroup() as runs:
        async for job in jobs():
            runs.create_task(trigger(http, job))


asyncio.run(main())
