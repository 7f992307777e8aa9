"""One video task's steps (submit, wait, archive), and what they stand on: leases, the poll planner, retries.

Import the modules: the front needs the intake only, and none of what the steps bring with them.
"""
