"""The checker finds what it is for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kling_flows.v1.video_task_pb2 import Artifact, Upstream, VideoTask
from tests.faults.audit import Kind, audit

pytestmark = pytest.mark.xdist_group("faults")


class Books:
    """One order, as it should be."""

    def __init__(self, folder: Path) -> None:
        self.video = folder / "one.mp4"
        self.video.write_bytes(b"moving")
        digest = hashlib.sha256(b"moving")
        self.manifest = folder / "one.json"
        self.manifest.write_text(json.dumps({"file": {"sha256": digest.hexdigest()}, "upstream": {"task_id": "up-1"}}))
        self.task = VideoTask(
            name="videoTasks/one",
            state=VideoTask.SUCCEEDED,
            upstream=Upstream(external_task_id="ext-1", task_id="up-1"),
            artifacts=[Artifact(uri=self.video.as_uri(), manifest_uri=self.manifest.as_uri(), sha256=digest.digest())],
        )
        self.task.text_to_video.prompt = "one"
        self.tasks = [self.task]
        self.charges: list[dict[str, Any]] = [{"prompt": "one", "external_task_id": "ext-1", "task_id": "up-1"}]

    def pay(self, prompt: str) -> None:
        self.charges.append({"prompt": prompt, "external_task_id": "ext-2", "task_id": "up-2"})

    def fail(self) -> None:
        self.task.state = VideoTask.FAILED


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)


def test_good_books_have_no_findings(books: Books) -> None:
    assert audit(["one"], books.tasks, books.charges).findings == ()


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (lambda books: books.pay("one"), Kind.DOUBLE),
        (lambda books: books.pay("nobody's"), Kind.DOUBLE),
        (lambda books: books.tasks.append(books.task), Kind.DOUBLE),
        (lambda books: books.tasks.clear(), Kind.LOST),
        (lambda books: books.fail(), Kind.LOST),
        (lambda books: books.charges.clear(), Kind.LOST),
        (lambda books: books.charges[0].update(external_task_id="ext-9"), Kind.LOST),
        (lambda books: books.task.ClearField("artifacts"), Kind.NOT_ARCHIVED),
        (lambda books: books.video.unlink(), Kind.NOT_ARCHIVED),
        (lambda books: books.video.write_bytes(b"mov"), Kind.NOT_ARCHIVED),
        (lambda books: books.manifest.unlink(), Kind.NOT_ARCHIVED),
    ],
)
def test_each_harm_is_found(books: Books, harm: Callable[[Books], None], kind: Kind) -> None:
    harm(books)
    assert [finding.kind for finding in audit(["one"], books.tasks, books.charges).findings] == [kind]


def test_a_refused_order_fails_for_nothing(books: Books) -> None:
    books.fail()
    assert audit(["one"], books.tasks, [], refused=["one"]).findings == ()
    [finding] = audit(["one"], books.tasks, books.charges, refused=["one"]).findings
    assert finding.kind is Kind.DOUBLE
