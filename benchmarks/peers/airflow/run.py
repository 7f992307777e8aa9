"""One of the processes that `airflow standalone` starts, all with the settings that a small installation needs
(https://airflow.apache.org/docs/apache-airflow/3.3.2/start.html, .../configurations-ref.html). What is not named here
has its default; PostgreSQL is there because SQLite is for development only (.../howto/set-up-database.html).
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
API = f"http://127.0.0.1:{os.environ['PEER_PORT_1']}"

os.environ |= {
    "AIRFLOW_HOME": os.environ["STATE"],
    "AIRFLOW__API__BASE_URL": API,
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{API}/execution/",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": os.environ["POSTGRES_URL"].replace(
        "postgresql://", "postgresql+psycopg2://"
    ),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": os.environ["POSTGRES_URL"].replace(
        "postgresql://", "postgresql+asyncpg://"
    ),
}
ARGUMENTS = {
    "api-server": ("--host", "127.0.0.1", "--port", os.environ["PEER_PORT_1"]),
    "dag-processor": (),
    "scheduler": ("--skip-serve-logs",),
    "triggerer": ("--skip-serve-logs",),
}

component = sys.argv[1]
if component == "api-server":
    subprocess.run(["airflow", "db", "migrate"], check=True)
    # So that the DAG is known before the first run is asked for.
    subprocess.run(["airflow", "dags", "reserialize"], check=True)
subprocess.Popen([sys.executable, str(HERE / "ready.py"), API, component])
os.execvp("airflow", ["airflow", component, *ARGUMENTS[component]])
