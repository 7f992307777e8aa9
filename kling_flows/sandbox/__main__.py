"""``python -m kling_flows.sandbox``: the stand-in for Kling's API as a process of its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kling_flows.errors import ConfigurationError
from kling_flows.processes import watch_parent
from kling_flows.sandbox.server import run
from kling_flows.sandbox.settings import SandboxSettings, VideoSource, parse_seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sandbox.

    Returns:
        The exit code.
    """
    defaults = SandboxSettings()
    parser = argparse.ArgumentParser(
        prog="python -m kling_flows.sandbox",
        description="A stand-in for Kling's text-to-video API, with faults on demand; needs no key.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8791, help="port; 0 for a free one (default: %(default)s)")
    parser.add_argument("--port-file", type=Path, metavar="PATH", help="file to write the port to")
    parser.add_argument(
        "--seconds",
        type=parse_seconds,
        default=defaults.seconds,
        metavar="MIN:MAX",
        help="time that a video takes, in seconds (default: 4:8)",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=defaults.concurrency,
        help="unfinished tasks per account and model; 0 for no limit (default: %(default)s)",
    )
    parser.add_argument(
        "--video",
        type=VideoSource,
        choices=list(VideoSource),
        default=defaults.video,
        help="render each prompt, or serve one small clip for all (default: %(default)s)",
    )
    parser.add_argument(
        "--url-lifetime",
        type=float,
        default=defaults.url_lifetime,
        metavar="SECONDS",
        help="time until a result URL expires (default: 30 days)",
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="seed of times and faults (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        settings = SandboxSettings(
            seconds=options.seconds,
            concurrency=options.concurrency,
            video=options.video,
            url_lifetime=options.url_lifetime,
            seed=options.seed,
        )
        run(options.host, options.port, settings=settings, port_file=options.port_file)
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
