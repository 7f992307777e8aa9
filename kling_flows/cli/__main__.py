"""``python -m kling_flows.cli``."""

from kling_flows.cli.app import app

if __name__ == "__main__":
    app(prog_name="kling-flows")
