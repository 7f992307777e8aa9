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
from kling_flows.sandbox.server import Tls, run
from kling_flows.sandbox.settings import SECRETS_VARIABLE, SandboxSettings, VideoSource, parse_seconds
from kling_flows.upstream.constants import StatusWord


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
    _add_account_flags(parser, defaults)
    _add_callback_flags(parser, defaults)
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="serve https with this certificate")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="key of the certificate, without a password")
    options = parser.parse_args(arguments)
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        settings = SandboxSettings(
            seconds=options.seconds,
            concurrency=options.concurrency,
            video=options.video,
            url_lifetime=options.url_lifetime,
            seed=options.seed,
            units=options.units,
            limit_costs=options.limit_costs,
            callback_secrets=tuple(options.callback_secret or os.environ.get(SECRETS_VARIABLE, "").split()),
            sign_legacy_callbacks=options.sign_legacy_callbacks,
            callback_states=frozenset(options.callback_states),
            callback_attempts=options.callback_attempts,
            callback_retry_seconds=options.callback_retry_seconds,
            callback_timeout=options.callback_timeout,
            callback_concurrency=options.callback_concurrency,
        )
        tls = None if options.tls_cert is None else Tls(options.tls_cert, options.tls_key)
        run(options.host, options.port, settings=settings, port_file=options.port_file, tls=tls)
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _add_account_flags(parser: argparse.ArgumentParser, defaults: SandboxSettings) -> None:
    parser.add_argument(
        "--units",
        type=float,
        default=defaults.units,
        help="video units in the account's pack; 429/1102 once they are used up (default: it is topped up)",
    )
    parser.add_argument(
        "--limit-costs", action="store_true", help="refuse GET /account/costs more than once a second with 429/1302"
    )


def _add_callback_flags(parser: argparse.ArgumentParser, defaults: SandboxSettings) -> None:
    parser.add_argument(
        "--callback-secret",
        action="append",
        metavar="whsec_...",
        help=f"secret to sign callbacks with; twice during a rotation (default: what {SECRETS_VARIABLE} lists)",
    )
    parser.add_argument(
        "--sign-legacy-callbacks",
        action=argparse.BooleanOptionalAction,
        default=defaults.sign_legacy_callbacks,
        help="sign callbacks of legacy orders as well (default: yes)",
    )
    parser.add_argument(
        "--callback-states",
        type=StatusWord,
        nargs="+",
        choices=list(StatusWord),
        default=sorted(defaults.callback_states),
        help="states whose beginning is reported (default: all)",
    )
    parser.add_argument(
        "--callback-attempts", type=int, default=defaults.callback_attempts, help="(default: %(default)s)"
    )
    for flag, default, help_text in (
        ("--callback-retry-seconds", defaults.callback_retry_seconds, "wait before the second attempt; then doubled"),
        ("--callback-timeout", defaults.callback_timeout, "time that a receiver has to answer"),
    ):
        parser.add_argument(
            flag, type=float, default=default, metavar="SECONDS", help=f"{help_text} (default: %(default)s)"
        )
    parser.add_argument(
        "--callback-concurrency",
        type=int,
        default=defaults.callback_concurrency,
        help="callbacks under way at once (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
