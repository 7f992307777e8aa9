"""``kling-flows sandbox``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from kling_flows.cli.options import PLAIN_OPTIONS, Shared, command
from kling_flows.cli.words import VideoSource


@command(*PLAIN_OPTIONS)
def sandbox(
    shared: Shared,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port; 0 for a free one.")] = 8791,
    seconds: Annotated[str, typer.Option("--seconds", metavar="MIN:MAX", help="How long a video takes.")] = "4:8",
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=0, help="Unfinished tasks per account and model; 0 for no limit.")
    ] = 20,
    video: Annotated[
        VideoSource, typer.Option("--video", help="Render each prompt, or serve one small clip for all.")
    ] = VideoSource.RENDERED,
    seed: Annotated[int, typer.Option("--seed", help="Seed of times and faults.")] = 0,
    units: Annotated[
        float | None, typer.Option("--units", min=0, help="Units in the account's pack; else it never runs out.")
    ] = None,
    callback_secret: Annotated[
        list[str] | None,
        typer.Option(
            "--callback-secret",
            metavar="whsec_...",
            envvar="KLING_FLOWS_SANDBOX_CALLBACK_SECRETS",
            help="Sign callbacks with it; twice during a rotation.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="PEM", help="Serve https with this certificate.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="PEM", help="Key of the certificate, without a password.")
    ] = None,
    port_file: Annotated[
        Path | None, typer.Option("--port-file", metavar="FILE", help="Write the port here once it answers.")
    ] = None,
) -> None:
    """Run a stand-in for Kling's API that needs no key, until Ctrl-C.

    Use it with: kling-flows serve --provider sandbox
    """
    from kling_flows.cli.output import Output
    from kling_flows.processes import watch_parent
    from kling_flows.sandbox import settings as sandbox_settings
    from kling_flows.sandbox.server import Tls, run

    output = Output(shared)
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together", param_hint="--tls-cert")
    try:
        span = sandbox_settings.parse_seconds(seconds)
    except ValueError:
        raise typer.BadParameter(f"{seconds!r} is not MIN:MAX; for example 4:8", param_hint="--seconds") from None
    settings = sandbox_settings.SandboxSettings(
        seconds=span,
        concurrency=concurrency,
        video=sandbox_settings.VideoSource(video.value),
        seed=seed,
        units=units,
        callback_secrets=tuple(callback_secret or ()),
    )
    tls = Tls(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None

    def ready(url: str) -> None:
        output.note(f"The sandbox answers at {url}", style="")
        output.note(f"Use it: kling-flows serve --provider sandbox --upstream-url {url}", style="")

    # Started by the demo it must not outlive it.
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    run(host, port, settings=settings, port_file=port_file, ready=ready, tls=tls)
