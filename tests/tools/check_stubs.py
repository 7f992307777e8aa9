"""Fails if the committed stubs are not what `make protos` makes of the protos."""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "kling_flows/v1"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        subprocess.run(["make", "--silent", "protos", f"PROTO_OUT={made}"], cwd=ROOT, check=True)
        committed = {p.name for p in (ROOT / PACKAGE).glob("*_pb2*")}
        fresh = {p.name for p in (made / PACKAGE).glob("*_pb2*")}
        _, differing, missing = filecmp.cmpfiles(ROOT / PACKAGE, made / PACKAGE, committed & fresh, shallow=False)
        stale = sorted({*(committed ^ fresh), *differing, *missing})
    if stale:
        sys.stderr.write(f"stale stubs in {PACKAGE}: {', '.join(stale)}; run `make protos` and commit the result\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
