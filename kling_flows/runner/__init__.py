"""The runner: the process that carries video tasks forward by running Prefect flows."""
