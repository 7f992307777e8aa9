"""``python -m benchmarks.peers.big_sandbox FOLDER …``: the sandbox, with a video of 1 GiB; what follows is its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from kling_flows.sandbox import videos
from kling_flows.sandbox.__main__ import main

#: Bytes of the big video.
BIG_BYTES: Final = 2**30

#: Bytes of the usual one.
TINY_BYTES: Final = videos.TINY_CLIP.stat().st_size


def _grown(folder: Path) -> Path:
    # The small clip, then one box of free space, which takes no room on the disk here.
    tiny = videos.TINY_CLIP.read_bytes()
    file = folder / "big.mp4"
    with file.open("wb") as output:
        output.write(tiny)
        output.write((BIG_BYTES - len(tiny)).to_bytes(4, "big") + b"free")
        os.truncate(output.fileno(), BIG_BYTES)
    return file


if __name__ == "__main__":
    videos.TINY_CLIP = _grown(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
