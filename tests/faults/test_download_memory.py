"""Archiving takes the same memory whatever the video's length."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..stack import ROOT, clean_environment

MIB = 1 << 20

#: `make faults` takes the full length; 256 MiB are enough to see anything that grows with the video.
SIZE = (1024 if os.environ.get("KLING_FLOWS_FULL_FAULTS") else 256) * MIB


@pytest.fixture
def source() -> Iterator[str]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.archive.big_source"], cwd=ROOT, stdout=subprocess.PIPE, env=clean_environment()
    )
    assert child.stdout is not None
    with child.stdout:
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        child.kill()
        child.wait()


def test_the_memory_of_a_download_does_not_grow_with_the_video(source: str, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    try:
        child = subprocess.run(
            [sys.executable, "-m", "tests.archive.memory_child", source, str(MIB), str(SIZE), str(folder)],
            cwd=ROOT,
            capture_output=True,
            env=clean_environment(),
            timeout=150,
            check=False,
        )
        assert child.returncode == 0, child.stderr.decode()
        assert (folder / "2026/03/vt-1.mp4").stat().st_size == SIZE
    finally:
        # pytest keeps the folders of its last runs.
        shutil.rmtree(folder, ignore_errors=True)
    measured = json.loads(child.stdout)
    assert measured["size"] == SIZE
    assert measured["growth"] < 32 * MIB, measured
