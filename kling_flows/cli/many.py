"""Many prompts at once: checked together, created all or none, and followed together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from rich.table import Table

from kling_flows.cli.client import VideoTaskClient
from kling_flows.cli.describe import plain_path, span, state_text, took, video_of
from kling_flows.cli.documents import document
from kling_flows.cli.failures import Failure, failure_of_status, report
from kling_flows.cli.generation import follow, settled
from kling_flows.cli.outcome import failure_of
from kling_flows.cli.output import Output, plain_table, printable
from kling_flows.cli.request import short_id
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

if TYPE_CHECKING:
    from kling_flows.cli.progress import Progress
    from kling_flows.cli.prompts import Prompt

#: Most ids that a line for people names.
_FEW: Final = 8


@dataclass(slots=True)
class Order:
    """What many prompts ask for, and what has become of it.

    Args:
        request_id: What the requests' own are made of; the same one, with the same prompts, finds the same tasks.
        requests: One for each prompt.
        lines: Where each prompt stands.
        tasks: As they were last seen, by name and in the order of the prompts; empty until the server has answered.
        sent: Whether the server may have created them.
    """

    request_id: str
    requests: Sequence[CreateVideoTaskRequest]
    lines: Sequence[int]
    tasks: dict[str, VideoTask] = field(default_factory=dict[str, VideoTask])
    sent: bool = False

    @classmethod
    def of(cls, template: CreateVideoTaskRequest, prompts: Sequence[Prompt]) -> Self:
        """The same request for each prompt, under request ids of their own."""
        requests: list[CreateVideoTaskRequest] = []
        for number, prompt in enumerate(prompts, 1):
            request = CreateVideoTaskRequest()
            request.CopyFrom(template)
            request.video_task.text_to_video.prompt = prompt.text
            request.request_id = f"{template.request_id}-{number}"
            requests.append(request)
        return cls(template.request_id, requests, [prompt.line for prompt in prompts])

    @property
    def validate_only(self) -> bool:
        """Whether nothing is to be created."""
        return self.requests[0].validate_only

    async def check(self, client: VideoTaskClient) -> tuple[Sequence[VideoTask], Sequence[Failure]]:
        """What would be created, and what is wrong with the requests; nothing is created."""
        checks = [
            CreateVideoTaskRequest(video_task=request.video_task, request_id=request.request_id, validate_only=True)
            for request in self.requests
        ]
        answer = await client.create_all(checks)
        outcomes = list(zip(self.lines, answer.results, strict=True))
        valid = [result.video_task for _, result in outcomes if result.HasField("video_task")]
        return valid, [
            failure_of_status(result.error, f"line {line}") for line, result in outcomes if result.HasField("error")
        ]

    async def create(self, client: VideoTaskClient) -> None:
        """Make all tasks durable, or none."""
        self.sent = True
        answer = await client.create_all(self.requests)
        self.tasks = {result.video_task.name: result.video_task for result in answer.results}

    async def run(self, client: VideoTaskClient, progress: Progress, output: Output) -> None:
        """Follow the tasks until nothing more happens by itself; print each that ends if JSON lines are wanted."""
        printed: set[str] = set()

        def changed(task: VideoTask) -> None:
            self.tasks[task.name] = task
            progress.changed(task)
            if output.jsonl and settled(task) and task.name not in printed:
                printed.add(task.name)
                output.document(document(task))

        for task in self.tasks.values():
            progress.changed(task)
        await follow(client, list(self.tasks), changed, until=settled)


def refuse(failures: Sequence[Failure], output: Output) -> int:
    """Say what is wrong with which line; returns the exit code."""
    for failure in failures:
        report(failure, output)
    return failures[0].exit_code


def tell_valid(tasks: Sequence[VideoTask], output: Output) -> None:
    """Print what would be created."""
    if output.json:
        _documents(tasks, output)
    output.note(f"{len(tasks)} prompts are valid; nothing was created.")


def tell_created(order: Order, output: Output) -> None:
    """Print the tasks' names, in the order of the prompts."""
    if output.json:
        _documents(order.tasks.values(), output)
    else:
        for name in order.tasks:
            output.line(name)
    output.note(f"{len(order.tasks)} video tasks were created. Watch them: {_watch(order)}")


def tell_all(tasks: Sequence[VideoTask], output: Output) -> int:
    """Print how the tasks have ended, in their order; with JSON lines they have been printed.

    Returns:
        The exit code: 0, or that of the first without a video.
    """
    if output.json:
        if not output.jsonl:
            _documents(tasks, output)
    elif output.quiet:
        for video in filter(None, map(video_of, tasks)):
            output.line(plain_path(video.uri))
    else:
        output.result(_table(tasks))
    failures = [failure for task in tasks if (failure := failure_of(task)) is not None]
    for failure in failures:
        report(failure, output)
    return failures[0].exit_code if failures else 0


def how_to_go_on(order: Order) -> str:
    """What to do after the waiting was ended."""
    again = f"To wait for the same ones again repeat the command with: --request-id {order.request_id}"
    if not order.tasks:
        return f"The server has not answered; the video tasks may exist. {again}"
    return f"The {len(order.tasks)} video tasks go on. Watch them: {_watch(order)}. {again}"


def _watch(order: Order) -> str:
    ids = [short_id(name) for name in order.tasks]
    return " ".join(["kling-flows watch", *(ids if len(ids) <= _FEW else [])])


def _documents(tasks: Iterable[VideoTask], output: Output) -> None:
    documents = [document(task) for task in tasks]
    for each in documents if output.jsonl else [{"video_tasks": documents}]:
        output.document(each)


def _table(tasks: Sequence[VideoTask]) -> Table:
    table = plain_table("ID", "STATE", "TIME", "COST", "VIDEO")
    for task in tasks:
        video = video_of(task)
        table.add_row(
            short_id(task.name),
            state_text(task.state),
            span(took(task)),
            f"{task.cost.settled_units} units" if task.cost.settled_units else "",
            "" if video is None else printable(plain_path(video.uri)),
        )
    return table
