from __future__ import annotations

import errno
import io
import os
import sys

import pytest
import structlog

from kling_flows.logs import configure_logging


@pytest.fixture(autouse=True)
def _defaults_afterwards() -> object:
    yield
    structlog.reset_defaults()


def test_a_traceback_never_shows_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    authorization = "Bearer very-secret"
    try:
        raise RuntimeError(f"no header of {len(authorization)} characters")
    except RuntimeError:
        structlog.get_logger().exception("it broke")
    shown = capsys.readouterr().err
    assert "RuntimeError" in shown
    assert "very-secret" not in shown


class _FullDisk(io.TextIOBase):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _FullDisk())
    configure_logging()
    structlog.get_logger().warning("nobody reads this")
