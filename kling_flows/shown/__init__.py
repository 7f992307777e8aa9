"""What Prefect's pages and automations get to see of video tasks: events, artifacts and tags."""
