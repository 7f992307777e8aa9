"""The checker: compares what was ordered with the ledger, the provider's charge book and the archive."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kling_flows.v1.video_task_pb2 import VideoTask


class Kind(StrEnum):
    DOUBLE = "double"
    LOST = "lost"
    NOT_ARCHIVED = "not archived"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be."""

    kind: Kind
    words: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found."""

    findings: tuple[Finding, ...]

    def count(self, kind: Kind) -> int:
        return sum(finding.kind is kind for finding in self.findings)


def audit(
    prompts: Iterable[str],
    tasks: Iterable[VideoTask],
    charges: Iterable[Mapping[str, Any]],
    *,
    refused: Collection[str] = (),
) -> Audit:
    """Check that every order has one task, one charge and one whole video.

    Args:
        prompts: What was ordered, each prompt once: a prompt is the one name of an order that the product did not make.
        tasks: The ledger's tasks.
        charges: The charge book.
        refused: Prompts that the provider refuses for good: FAILED and without a charge.
    """
    tasks_of: dict[str, list[VideoTask]] = defaultdict(list)
    for task in tasks:
        tasks_of[task.text_to_video.prompt].append(task)
    charges_of: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for charge in charges:
        charges_of[charge["prompt"]].append(charge)
    findings: list[Finding] = []
    ordered = list(prompts)
    for prompt in ordered:
        findings.extend(_order(prompt, tasks_of[prompt], charges_of[prompt], refused=prompt in refused))
    for prompt in (charges_of.keys() | tasks_of.keys()) - set(ordered):
        findings.extend(Finding(Kind.DOUBLE, f"nobody ordered {prompt!r}") for _ in charges_of[prompt] or [prompt])
    return Audit(tuple(findings))


def _order(
    prompt: str, tasks: list[VideoTask], charges: list[Mapping[str, Any]], *, refused: bool
) -> Iterable[Finding]:
    for extra in charges[0 if refused else 1 :]:
        yield Finding(Kind.DOUBLE, f"{prompt!r} was paid again as {extra['external_task_id']}")
    for extra_task in tasks[1:]:
        yield Finding(Kind.DOUBLE, f"{prompt!r} became a task again, {extra_task.name}")
    if not tasks:
        yield Finding(Kind.LOST, f"{prompt!r} is not in the ledger")
        return
    task = tasks[0]
    wanted = VideoTask.FAILED if refused else VideoTask.SUCCEEDED
    if task.state != wanted:
        state = VideoTask.State.Name(task.state)
        yield Finding(Kind.LOST, f"{task.name} is {state}: {task.error.message or 'no error'}")
    if refused:
        return
    known = (task.upstream.external_task_id, task.upstream.task_id)
    if known not in [(charge["external_task_id"], charge["task_id"]) for charge in charges]:
        yield Finding(Kind.LOST, f"{task.name} holds {known}, which nobody paid for")
    if task.state == VideoTask.SUCCEEDED:
        yield from _archived(task)


def _archived(task: VideoTask) -> Iterable[Finding]:
    if len(task.artifacts) != 1:
        yield Finding(Kind.NOT_ARCHIVED, f"{task.name} has {len(task.artifacts)} files")
        return
    artifact = task.artifacts[0]
    try:
        video = _path(artifact.uri).read_bytes()
        manifest = json.loads(_path(artifact.manifest_uri).read_text())
    except (OSError, ValueError) as error:
        yield Finding(Kind.NOT_ARCHIVED, f"{task.name}: {error}")
        return
    digest = hashlib.sha256(video).hexdigest()
    if not digest == artifact.sha256.hex() == manifest["file"]["sha256"]:
        yield Finding(Kind.NOT_ARCHIVED, f"{task.name}: the file is not the one that its manifest describes")
    if manifest["upstream"]["task_id"] != task.upstream.task_id:
        yield Finding(Kind.NOT_ARCHIVED, f"{task.name}: the manifest is another upstream task's")


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
