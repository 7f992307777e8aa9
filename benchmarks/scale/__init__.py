"""Scenario ``scale``: thousands of video tasks in flight in one process, on both ledgers, by both dispatches."""
