"""The contract only grows, and the stubs that are committed for Go are those of the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT

from .toolchains import go, run

BUF = Path(sys.executable).with_name("buf")
SERVICE = Path("protos/kling_flows/v1/video_task_service.proto")

pytestmark = pytest.mark.timeout(1_200)


def breaking(tree: Path) -> subprocess.CompletedProcess[str]:
    """What ``make protos-breaking`` runs, in a clone."""
    return subprocess.run(
        [str(BUF), "breaking", "--against", "../.git#branch=main,subdir=protos"],
        cwd=tree / "protos",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh repository whose last commit has the contract as it is now."""
    tree = tmp_path / "clone"
    shutil.copytree(ROOT / "protos", tree / "protos")
    name = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.com")
    for command in (["init", "--quiet", "--initial-branch=main"], ["add", "."], ["commit", "--quiet", "-m", "All"]):
        subprocess.run(["git", *name, *command], cwd=tree, check=True, timeout=60)
    return tree


def test_a_contract_that_grows_is_accepted(clone: Path) -> None:
    service = clone / SERVICE
    service.write_text(
        service.read_text().replace(
            "  bool until_final = 6 [", "  // New.\n  string brand_new = 99;\n\n  bool until_final = 6 ["
        )
    )
    done = breaking(clone)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("  bool until_final = 6 [(google.api.field_behavior) = OPTIONAL];\n", "", 'field "6" with name "until_final"'),
        ("  bool until_final = 6 [", "  string until_final = 6 [", 'from "bool" to "string"'),
        ("  bool until_final = 6 [", "  bool until_final = 7 [", 'field "6" with name "until_final"'),
    ],
    ids=["removed", "another type", "renumbered"],
)
def test_a_contract_that_breaks_its_clients_is_caught(clone: Path, before: str, after: str, complaint: str) -> None:
    service = clone / SERVICE
    assert before in service.read_text()
    service.write_text(service.read_text().replace(before, after))
    done = breaking(clone)
    assert done.returncode != 0
    assert complaint in done.stdout


@pytest.mark.xdist_group("clients")
def test_the_go_stubs_are_those_of_the_contract(tmp_path: Path) -> None:
    example = ROOT / "examples" / "go"
    path = os.pathsep.join((str(Path(go()).parent), os.environ["PATH"]))
    run(
        [str(example / "generate.sh")],
        example,
        OUT=str(tmp_path),
        PATH=path,
        PROTOC=f"{sys.executable} -m grpc_tools.protoc",
    )
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.go")}
    committed = {path.relative_to(example / "gen"): path.read_bytes() for path in (example / "gen").rglob("*.go")}
    assert fresh == committed, "run make protos"
