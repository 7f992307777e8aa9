"""Sends a task per line of stdin (https://docs.celeryq.dev/en/stable/userguide/calling.html)."""

import json
import sys

from jobs import accepted
from tasks import create

for line in sys.stdin:
    job = json.loads(line)
    create.delay(**job)
    accepted(job["job"])
