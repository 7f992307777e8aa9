"""Many prompts from a pipe, and JSON line by line; over real gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from grpc_server.errors import status_of
from kling_flows.errors import InvalidRequest, KlingFlowsError, Violation
from kling_flows.ledger import State
from kling_flows.v1.video_task_pb2 import Artifact, VideoTask
from kling_flows.v1.video_task_service_pb2 import (
    BatchCreateVideoTasksRequest,
    BatchCreateVideoTasksResponse,
    BatchCreateVideoTasksResult,
    ListVideoTasksResponse,
)
from tests.front.rig import Rig

from .command import interrupt, run, start
from .front import Front, message, returns, streams, task

ONE, TWO = "videoTasks/one", "videoTasks/two"
PROMPTS = b"a fox wakes\n\n  a bear sleeps \n"


def batch(*outcomes: VideoTask | KlingFlowsError) -> BatchCreateVideoTasksResponse:
    response = BatchCreateVideoTasksResponse()
    for outcome in outcomes:
        if isinstance(outcome, VideoTask):
            response.results.append(BatchCreateVideoTasksResult(video_task=outcome))
        else:
            response.results.append(BatchCreateVideoTasksResult(error=status_of(outcome)))
    return response


def made(name: str, revision: int = 5) -> VideoTask:
    uri = f"file:///videos/{name.removeprefix('videoTasks/')}.mp4"
    return task("SUCCEEDED", revision, name, artifacts=[Artifact(kind=Artifact.VIDEO, uri=uri)])


def created(front: Front) -> None:
    """Two tasks that are made, the second one first."""
    front.answers = [
        returns(batch(task(name=""), task(name=""))),
        returns(batch(task(name=ONE), task(name=TWO))),
    ]
    front.streams = [
        streams(
            message(task(name=ONE), task(name=TWO), token="a", synced=True),
            message(made(TWO), token="b"),
            message(made(ONE), token="c"),
        )
    ]


async def test_each_line_of_stdin_is_a_prompt(front: Front) -> None:
    created(front)
    result = await run(
        *("generate", "-", "--mode", "pro", "--label", "team=ads", "--request-id", "r", "--server", front.address),
        stdin=PROMPTS,
    )
    assert result.code == 0, result.err
    header, *rows = result.out.splitlines()
    assert header.split() == ["ID", "STATE", "TIME", "COST", "VIDEO"]
    assert [row.split()[0] for row in rows] == ["one", "two"]
    assert "/videos/two.mp4" in rows[1]
    check, create = (request for request in front.requests if isinstance(request, BatchCreateVideoTasksRequest))
    assert [request.video_task.text_to_video.prompt for request in create.requests] == ["a fox wakes", "a bear sleeps"]
    assert [request.request_id for request in create.requests] == ["r-1", "r-2"]
    assert all(request.video_task.labels == {"team": "ads"} for request in create.requests)
    assert (create.all_or_nothing, [request.validate_only for request in create.requests]) == (True, [False, False])
    assert all(request.validate_only for request in check.requests)


async def test_json_lines_come_as_the_videos_do_and_json_in_the_order_of_the_prompts(front: Front) -> None:
    created(front)
    lines = await run("generate", "-", "--jsonl", "--server", front.address, stdin=PROMPTS)
    assert [json.loads(line)["name"] for line in lines.out.splitlines()] == [TWO, ONE]
    created(front)
    whole = await run("generate", "-", "--json", "--server", front.address, stdin=PROMPTS)
    assert [item["name"] for item in whole.json["video_tasks"]] == [ONE, TWO]
    created(front)
    quiet = await run("generate", "-", "--quiet", "--server", front.address, stdin=PROMPTS)
    assert (quiet.out, quiet.err) == ("/videos/one.mp4\n/videos/two.mp4\n", "")


async def test_one_invalid_prompt_keeps_all_from_being_paid_for(front: Front) -> None:
    invalid = InvalidRequest([Violation("text_to_video.prompt", "TOO_LONG", "shorten it.")])
    front.answers = [returns(batch(task(name=""), invalid))]
    plain, machine = await asyncio.gather(
        run("generate", "-", "--server", front.address, stdin=PROMPTS),
        run("generate", "-", "--json", "--server", front.address, stdin=PROMPTS),
    )
    assert (plain.code, plain.out) == (3, "")
    # The number of the line as an editor shows it: the second one is blank.
    assert plain.err.splitlines() == [
        "error: line 3: the request is invalid",
        "  PROMPT (text_to_video.prompt): shorten it.",
    ]
    assert machine.error["violations"][0]["option"] == "PROMPT"
    assert len(front.requests) == 2


async def test_a_video_that_fails_does_not_hide_the_others(front: Front) -> None:
    created(front)
    failed = task("FAILED", 5, ONE)
    failed.error.message = "the provider says no"
    front.streams = [streams(message(failed, made(TWO), token="a", synced=True))]
    result = await run("generate", "-", "--server", front.address, stdin=PROMPTS)
    assert result.code == 10
    assert "/videos/two.mp4" in result.out
    assert "error: one is FAILED: the provider says no" in result.err


async def test_ctrl_c_leaves_all_tasks_and_says_how_to_go_on(front: Front) -> None:
    created(front)
    front.streams = [streams(message(task(name=ONE), token="a", synced=True), hang=True)]
    process = await start("generate", "-", "--request-id", "r", "--server", front.address, piped=True)
    assert process.stdin is not None
    process.stdin.write(PROMPTS)
    process.stdin.close()
    async with asyncio.timeout(60):
        while not front.open_streams:
            await asyncio.sleep(0.02)
    result = await interrupt(process)
    assert (result.code, result.out) == (130, "")
    assert "kling-flows watch one two" in result.err
    assert "--request-id r" in result.err


async def test_what_cannot_be_many_prompts_is_a_usage_error() -> None:
    server = ("--server", "127.0.0.1:1")
    results = await asyncio.gather(
        run("generate", "-", *server, stdin=b"\n \n"),
        run("generate", "-", *server, stdin=b"\xff\n"),
        run("generate", "-", *server, stdin=b"a fox\n" * 1001),
        run("generate", "-", "--id", "fox", *server, stdin=PROMPTS),
        run("generate", "-", "--open", *server, stdin=PROMPTS),
        run("generate", "a fox", "--open", "--detach", *server),
    )
    assert [(result.code, result.out) for result in results] == [(2, "")] * 6
    said = ["no prompt", "line 1", "split -l 1000", "--id", "--open", "--open"]
    for result, words in zip(results, said, strict=True):
        assert words in result.err


async def test_a_repetition_with_the_request_id_finds_the_same_tasks(rig: Rig) -> None:
    served = await rig.serve()
    arguments = ("generate", "-", "--detach", "--request-id", "monday", "--server", served.front.address)
    first = await run(*arguments, stdin=PROMPTS)
    assert first.code == 0, first.err
    assert (await run(*arguments, stdin=PROMPTS)).out == first.out
    names = first.out.splitlines()
    tasks = [await served.ledger.get(name.removeprefix("videoTasks/")) for name in names]
    assert [each.state for each in tasks] == [State.QUEUED, State.QUEUED]
    valid = await run("generate", "-", "--validate-only", "--server", served.front.address, stdin=PROMPTS)
    assert (valid.code, valid.out) == (0, "")
    assert "2 prompts are valid; nothing was created." in valid.err
    invalid = await run(
        *("generate", "-", "--model", "kling-v0", "--jsonl", "--server", served.front.address), stdin=PROMPTS
    )
    assert (invalid.code, invalid.out) == (3, "")
    listed = await run("list", "--jsonl", "--server", served.front.address)
    assert {json.loads(line)["name"] for line in listed.out.splitlines()} == set(names)


async def test_list_and_watch_print_json_line_by_line(front: Front) -> None:
    front.answers = [returns(ListVideoTasksResponse(video_tasks=[task(name=ONE), made(TWO)]))]
    front.streams = [streams(message(made(ONE), token="a", synced=True))]
    listed, watched = await asyncio.gather(
        run("list", "--jsonl", "--server", front.address), run("--jsonl", "watch", "one", "--server", front.address)
    )
    assert [json.loads(line)["name"] for line in listed.out.splitlines()] == [ONE, TWO]
    assert [json.loads(line)["state"] for line in watched.out.splitlines()] == ["SUCCEEDED"]


async def test_a_terminal_shows_many_as_far_as_they_fit(front: Front) -> None:
    names = [f"videoTasks/vt-{number:02}" for number in range(30)]
    tasks = [task("QUEUED", 1, name, typical_duration=Duration(seconds=90)) for name in names]
    for each in tasks[10:20]:
        each.state = VideoTask.PROCESSING
        each.upstream.submit_time.GetCurrentTime()
    for each in tasks[20:]:
        each.CopyFrom(made(each.name))
    front.answers = [returns(batch(*tasks)), returns(batch(*tasks))]
    end = asyncio.Event()

    async def stop(request: object, context: object) -> None:
        await end.wait()

    front.streams = [
        streams(message(*tasks, token="a", synced=True), then=stop),
        streams(message(*(made(name, 9) for name in names), token="b")),
    ]
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kling_flows.cli", "generate", "-", "--server", front.address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "20"},
    )
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(b"a fox\n" * 30)
    process.stdin.close()
    seen = b""
    async with asyncio.timeout(30):
        while b"and 22 more" not in seen or b"left" not in seen:
            seen += await asyncio.to_thread(os.read, ours, 65_536)
        end.set()
        assert await process.wait() == 0
    os.close(ours)
    text = seen.decode(errors="replace")
    assert "10 of 30 done" in text
    assert "vt-10" in text
    assert "vt-29" not in text


async def test_the_video_is_opened_where_it_can_be(front: Front, tmp_path: Path) -> None:
    viewer, opened = tmp_path / "xdg-open", tmp_path / "opened"
    viewer.write_text(f'#!/bin/sh\necho "$1" >> "{opened}"\n')
    viewer.chmod(0o755)
    video = tmp_path / "a fox.mp4"
    video.write_bytes(b"video")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    async def shown(uri: str) -> str:
        result = made(ONE)
        result.artifacts[0].uri = uri
        front.answers = [returns(task(name=ONE))]
        front.streams = [streams(message(result, token="a", synced=True))]
        done = await run("generate", "a fox", "--open", "--server", front.address, env=env)
        assert done.code == 0
        return done.err

    await shown(video.as_uri())
    async with asyncio.timeout(30):
        while not opened.exists() or not opened.read_text():
            await asyncio.sleep(0.02)
    assert opened.read_text().splitlines() == [str(video)]
    assert "is not on this machine" in await shown("file:///nowhere/fox.mp4")
    assert "cannot be opened from here" in await shown("s3://videos/fox.mp4")
    assert opened.read_text().splitlines() == [str(video)]


async def test_the_shell_completes_models_states_and_tasks(front: Front) -> None:
    front.answers = [returns(ListVideoTasksResponse(video_tasks=[task(name=ONE), made(TWO)]))]

    async def completed(line: str) -> list[str]:
        env = {
            "_KLING_FLOWS_COMPLETE": "complete_bash",
            "COMP_WORDS": f"kling-flows {line}",
            "COMP_CWORD": str(len(f"kling-flows {line}".split()) - 1),
            "_TYPER_COMPLETE_ARGS": f"kling-flows {line}",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from kling_flows.cli.app import app; app(prog_name='kling-flows')"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **env},
        )
        out, _ = await process.communicate()
        return out.decode().split()

    assert "kling-v3" in await completed("generate --model kling-v")
    assert await completed("generate --mode p") == ["pro"]
    assert await completed("list --state SUC") == ["SUCCEEDED"]
    assert await completed(f"get --server {front.address} tw") == ["two"]
    assert await completed("get --server 127.0.0.1:1 tw") == []
