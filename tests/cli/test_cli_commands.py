from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from kling_flows.cli.documents import document
from kling_flows.errors import (
    CredentialsMissing,
    InvalidRequest,
    LedgerUnavailable,
    QueueFull,
    VideoTaskFinal,
    VideoTaskNotFound,
    Violation,
)
from kling_flows.upstream import UpstreamAuth
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import Artifact, FlowRun, Upstream, VideoTask
from kling_flows.v1.video_task_service_pb2 import (
    CancelVideoTaskRequest,
    CreateVideoTaskRequest,
    ListVideoTasksRequest,
    ListVideoTasksResponse,
)

from .command import Result, finish, interrupt, run, start
from .front import NAME, Front, message, refuses, refuses_plainly, returns, streams, task

PATH = "/videos/2026/a b.mp4"
SHA256 = bytes(range(32))


def done(name: str = NAME, revision: int = 5) -> VideoTask:
    result = task("SUCCEEDED", revision, name)
    result.artifacts.append(
        Artifact(
            kind=Artifact.VIDEO,
            uri="file:///videos/2026/a%20b.mp4",
            size_bytes=1_234_567,
            sha256=SHA256,
            duration_seconds=5.1,
        )
    )
    result.cost.settled_units = "2.5"
    return result


def ended(state: str, words: str = "the provider says no") -> VideoTask:
    result = task(state, 5)
    result.error.message = words
    return result


def scripted(front: Front, last: VideoTask) -> None:
    """One task that goes through its states to this end."""
    submitted = task(
        "SUBMITTED", 3, upstream=Upstream(task_id="up-7"), flow_run=FlowRun(url="http://127.0.0.1:4200/runs/1")
    )
    front.answers = [returns(task())]
    front.streams = [
        streams(
            message(task(), token="a", synced=True),
            message(task("SUBMITTING", 2), submitted, token="b"),
            message(last, token="c"),
        )
    ]


async def call(front: Front, *arguments: str) -> Result:
    return await run(*arguments, "--server", front.address)


async def test_generate_follows_the_task_to_its_video(front: Front) -> None:
    scripted(front, done())
    result = await call(front, "generate", "a fox")
    assert result.code == 0
    assert result.out.splitlines() == [
        "task        vt-1",
        f"video       {PATH}",
        "size        1.2 MB (1234567 bytes), 5.1 s",
        f"sha256      {SHA256.hex()}",
        "cost        2.5 units",
    ]
    states = [line.split()[2] for line in result.err.splitlines()]
    assert states == ["QUEUED", "SUBMITTING", "SUBMITTED", "SUCCEEDED"]
    assert "up-7" in result.err
    assert "http://127.0.0.1:4200/runs/1" in result.err


async def test_generate_sends_what_was_asked_for(front: Front) -> None:
    front.answers = [returns(task())]
    result = await call(
        front, "generate", "a fox", "--mode", "pro", "--label", "team=ads", "--id", "fox", "--request-id", "r", "-d"
    )
    assert result.code == 0
    assert front.requests == [
        CreateVideoTaskRequest(
            video_task=VideoTask(
                text_to_video=TextToVideo(prompt="a fox", mode=TextToVideo.PRO), labels={"team": "ads"}
            ),
            video_task_id="fox",
            request_id="r",
        )
    ]


async def test_each_generate_has_a_request_id_of_its_own(front: Front) -> None:
    front.answers = [returns(task())]
    await asyncio.gather(*(call(front, "generate", "a fox", "--detach") for _ in range(2)))
    assert len({request.request_id for request in front.requests} - {""}) == 2


async def test_generate_quiet_prints_the_path_only(front: Front) -> None:
    scripted(front, done())
    result = await call(front, "generate", "a fox", "--quiet")
    assert (result.code, result.out, result.err) == (0, f"{PATH}\n", "")


async def test_generate_json_is_one_object(front: Front) -> None:
    scripted(front, done())
    result = await call(front, "generate", "a fox", "--json")
    assert result.code == 0
    assert result.json == document(done()) | {key: result.json[key] for key in ("create_time", "update_time")}
    assert result.json["artifacts"][0]["size_bytes"] == "1234567"


@pytest.mark.parametrize(
    ("state", "code", "reason"),
    [
        ("FAILED", 10, "VIDEO_TASK_FAILED"),
        ("CANCELLED", 11, "VIDEO_TASK_CANCELLED"),
        ("EXPIRED", 12, "VIDEO_TASK_EXPIRED"),
        ("UNRESOLVED", 13, "UPSTREAM_AMBIGUOUS"),
    ],
)
async def test_generate_without_a_video_says_why(front: Front, state: str, code: int, reason: str) -> None:
    scripted(front, ended(state))
    plain, machine = await asyncio.gather(
        call(front, "generate", "a fox"), call(front, "generate", "a fox", "--json", "-q")
    )
    assert (plain.code, machine.code) == (code, code)
    assert plain.out == ""
    assert f"error: vt-1 is {state}: the provider says no" in plain.err
    assert machine.json["state"] == state
    assert machine.error["reason"] == reason
    assert machine.error["metadata"] == {"video_task": NAME}


async def test_generate_detached_prints_the_name(front: Front) -> None:
    front.answers = [returns(task())]
    result = await call(front, "generate", "a fox", "--detach")
    assert (result.code, result.out) == (0, f"{NAME}\n")
    assert "kling-flows watch vt-1" in result.err
    assert front.watches == []


async def test_validate_only_creates_nothing(front: Front) -> None:
    front.answers = [returns(task(text_to_video=TextToVideo(prompt="a fox", model_name="kling-v3")))]
    result = await call(front, "generate", "a fox", "--validate-only")
    assert result.code == 0
    assert "nothing was created" in result.err
    assert "kling-v3" in result.out
    [request] = front.requests
    assert request.validate_only


async def test_ctrl_c_leaves_the_task_and_says_how_to_go_on(front: Front) -> None:
    front.answers = [returns(task())]
    front.streams = [streams(message(task(), token="a", synced=True), hang=True)]
    process = await start("generate", "a fox", "--server", front.address)
    async with asyncio.timeout(60):
        while not front.open_streams:
            await asyncio.sleep(0.02)
    result = await interrupt(process)
    assert (result.code, result.out) == (130, "")
    assert "kling-flows watch vt-1" in result.err
    assert "Traceback" not in result.err


async def test_ctrl_c_before_the_answer_tells_the_request_id(front: Front) -> None:
    received = asyncio.Event()

    async def never(request: Any, context: Any) -> None:
        received.set()
        await asyncio.Event().wait()

    front.answers = [never]
    process = await start("generate", "a fox", "--server", front.address)
    async with asyncio.timeout(60):
        await received.wait()
    result = await interrupt(process)
    assert result.code == 130
    assert f"--request-id {front.requests[0].request_id}" in result.err


async def test_a_create_whose_answer_is_lost_tells_the_request_id(front: Front) -> None:
    front.answers = [refuses_plainly(grpc.StatusCode.UNAVAILABLE)]
    lost, refused = await asyncio.gather(
        call(front, "generate", "a fox"), run("generate", "a fox", "--server", "127.0.0.1:1")
    )
    assert (lost.code, refused.code) == (8, 8)
    assert f"--request-id {front.requests[0].request_id}" in lost.err
    assert "--request-id" not in refused.err


async def test_an_error_after_the_create_says_that_the_task_goes_on(front: Front) -> None:
    front.answers = [returns(task())]
    front.streams = [streams(then=refuses(VideoTaskNotFound("gone")))]
    result = await call(front, "generate", "a fox")
    assert result.code == 5
    assert "kling-flows watch vt-1" in result.err


INVALID = InvalidRequest(
    [
        Violation("text_to_video.duration", "OUT_OF_RANGE", "kling-v3 makes 3 to 15 s."),
        Violation("text_to_video.multi_prompt[1].prompt", "TOO_LONG", "shorten it."),
    ]
)


async def test_violations_are_listed_with_their_options(front: Front) -> None:
    front.answers = [refuses(INVALID)]
    result = await call(front, "generate", "a fox")
    assert (result.code, result.out) == (3, "")
    assert result.err.splitlines() == [
        "error: the request is invalid",
        "  --duration (text_to_video.duration): kling-v3 makes 3 to 15 s.",
        "  --shot (text_to_video.multi_prompt[1].prompt): shorten it.",
    ]


async def test_violations_that_did_not_fit_are_counted(front: Front) -> None:
    front.answers = [refuses(InvalidRequest([Violation("labels", "MALFORMED", "x" * 500)] * 30))]
    result = await call(front, "generate", "a fox")
    shown = len(result.err.splitlines()) - 2
    assert 0 < shown < 30
    assert result.err.splitlines()[-1] == f"  and {30 - shown} more"


async def test_errors_are_json_where_that_is_wanted(front: Front) -> None:
    front.answers = [refuses(INVALID)]
    result = await call(front, "generate", "a fox", "--json")
    assert (result.code, result.out) == (3, "")
    assert result.error["code"] == "INVALID_ARGUMENT"
    assert result.error["reason"] == "INVALID_REQUEST"
    assert result.error["violations"][0] == {
        "field": "text_to_video.duration",
        "rule": "OUT_OF_RANGE",
        "message": "kling-v3 makes 3 to 15 s.",
        "option": "--duration",
    }


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (VideoTaskNotFound("no video task vt-1"), 5, "error: no video task vt-1"),
        (VideoTaskFinal("it is SUCCEEDED"), 7, "error: it is SUCCEEDED"),
        (QueueFull("100000 wait"), 8, "Try again in 5 s."),
        (CredentialsMissing("KLING_API_KEY", "is not set"), 4, "error: KLING_API_KEY: is not set"),
        (UpstreamAuth("the key is refused"), 9, "error: the key is refused"),
    ],
)
async def test_exit_codes_are_those_of_the_errors(front: Front, error: Any, code: int, words: str) -> None:
    front.answers = [refuses(error)]
    result = await call(front, "get", "vt-1")
    assert (result.code, result.out) == (code, "")
    assert words in result.err


async def test_a_server_that_is_away_is_named_with_its_remedy() -> None:
    plain, machine = await asyncio.gather(
        run("get", "vt-1", "--server", "127.0.0.1:1"), run("get", "vt-1", "--json", "--server", "127.0.0.1:1")
    )
    assert (plain.code, machine.code) == (8, 8)
    assert "error: the server cannot be reached: " in plain.err
    assert "Start it: kling-flows serve" in plain.err
    assert machine.error["reason"] == "SERVER_UNAVAILABLE"


async def test_what_the_server_says_of_its_ledger_is_not_a_missing_server(front: Front) -> None:
    front.answers = [refuses(LedgerUnavailable("the disk is full"))]
    result = await call(front, "get", "vt-1")
    assert result.code == 8
    assert "error: the disk is full" in result.err
    assert "kling-flows serve" not in result.err


async def test_get_shows_everything(front: Front) -> None:
    front.answers = [returns(done())]
    plain, machine = await asyncio.gather(call(front, "get", "vt-1"), call(front, "get", NAME, "--json"))
    assert PATH in plain.out
    assert "SUCCEEDED" in plain.out
    assert machine.json["name"] == NAME
    assert [request.name for request in front.requests] == [NAME, NAME]


async def test_what_others_wrote_does_not_steer_the_terminal(front: Front) -> None:
    front.answers = [returns(task(text_to_video=TextToVideo(prompt="a\x1b[2Jfox\n[red]")))]
    result = await call(front, "get", "vt-1")
    assert "\x1b" not in result.out
    assert "fox [red]" in result.out


async def test_a_detail_that_is_not_known_does_not_hide_the_task(front: Front) -> None:
    failed = ended("FAILED")
    failed.error.CopyFrom(
        Status(code=9, message="no", details=[AnyMessage(type_url="type.googleapis.com/later.Detail", value=b"x")])
    )
    front.answers = [returns(failed)]
    result = await call(front, "get", "vt-1", "--json")
    assert result.json["error"] == {"code": 9, "message": "no"}


async def test_cancel(front: Front) -> None:
    front.answers = [returns(task("CANCELLED", 2, upstream=Upstream(task_id="up-7")))]
    result = await call(front, "cancel", "vt-1", "--reason", "changed my mind")
    assert result.code == 0
    assert "CANCELLED" in result.out
    assert "may still be made and billed" in result.err
    assert front.requests == [CancelVideoTaskRequest(name=NAME, reason="changed my mind")]


async def test_list_asks_for_one_page(front: Front) -> None:
    front.answers = [
        returns(
            ListVideoTasksResponse(
                video_tasks=[task(text_to_video=TextToVideo(prompt="a fox")), done("videoTasks/vt-2")],
                next_page_token="p",
            )
        )
    ]
    result = await call(
        front, "list", "--state", "queued", "--label", "team=ads", "--filter", "labels.x = y", "--page-size", "2"
    )
    assert result.code == 0
    header, *rows = result.out.splitlines()
    assert header.split() == ["ID", "STATE", "CREATED", "TIME", "PROMPT"]
    assert [row.split()[:2] for row in rows] == [["vt-1", "QUEUED"], ["vt-2", "SUCCEEDED"]]
    assert "--all" in result.err
    assert front.requests == [
        ListVideoTasksRequest(page_size=2, filter='state = QUEUED AND labels.team = "ads" AND labels.x = y')
    ]


async def test_list_all_asks_for_every_page(front: Front) -> None:
    front.answers = [
        returns(ListVideoTasksResponse(video_tasks=[task()], next_page_token="p2")),
        returns(ListVideoTasksResponse(video_tasks=[done("videoTasks/vt-2")])),
    ]
    result = await call(front, "list", "--all", "--json")
    assert [item["name"] for item in result.json["video_tasks"]] == [NAME, "videoTasks/vt-2"]
    assert [request.page_token for request in front.requests] == ["", "p2"]


async def test_an_empty_list_is_empty(front: Front) -> None:
    front.answers = [returns(ListVideoTasksResponse())]
    plain, machine = await asyncio.gather(call(front, "list"), call(front, "list", "--json"))
    assert (plain.out, plain.err) == ("", "No video tasks.\n")
    assert machine.json == {"video_tasks": []}


async def test_watch_of_ids_ends_with_them(front: Front) -> None:
    other = "videoTasks/vt-2"
    front.streams = [
        streams(
            message(task(), task("PROCESSING", 4, other), token="a", synced=True),
            message(done(), token="b"),
            message(done(other, 6), token="c"),
        )
    ]
    result = await call(front, "watch", "vt-1", other, "vt-1", "--json")
    assert result.code == 0
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [(line["name"], line["state"]) for line in lines] == [
        (NAME, "QUEUED"),
        (other, "PROCESSING"),
        (NAME, "SUCCEEDED"),
        (other, "SUCCEEDED"),
    ]
    assert list(front.watches[0].names) == [NAME, other]


async def test_watch_of_ids_has_the_exit_code_of_what_went_wrong(front: Front) -> None:
    front.streams = [streams(message(ended("EXPIRED"), done("videoTasks/vt-2"), token="a", synced=True))]
    result = await call(front, "watch", "vt-2", "vt-1")
    assert result.code == 12
    assert PATH in result.out
    assert "error: vt-1 is EXPIRED" in result.err


async def test_watch_goes_on_for_ever_and_skips_the_past(front: Front) -> None:
    past, failed, new = done("videoTasks/past"), task("FAILED", 2, "videoTasks/now"), "videoTasks/new"
    front.streams = [
        streams(
            message(past, task("PROCESSING", 1, "videoTasks/now"), token="a"),
            message(failed, token="b", synced=True),
            message(failed, task(name=new), token="c"),
            hang=True,
        )
    ]
    process = await start("watch", "--server", front.address)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    result = await interrupt(process)
    assert result.code == 130
    assert [line.split()[1:3] for line in lines] == [["now", "PROCESSING"], ["new", "QUEUED"]]
    assert "past" not in result.out


async def test_watch_takes_tasks_or_conditions(front: Front) -> None:
    result = await call(front, "watch", "vt-1", "--state", "QUEUED")
    assert result.code == 2
    assert front.requests == []


async def test_shared_options_stand_before_the_command_too(front: Front) -> None:
    front.answers = [returns(task())]
    result = await run("--server", front.address, "--json", "get", "vt-1")
    assert result.json["name"] == NAME


async def test_the_server_is_the_one_that_the_configuration_names(front: Front, tmp_path: Path) -> None:
    front.answers = [returns(task())]
    file = tmp_path / "kling-flows.toml"
    file.write_text(f'listen = "{front.address}"\n')
    by_file, by_variable = await asyncio.gather(
        run("get", "vt-1", "--config", str(file)),
        run("get", "vt-1", env={"KLING_FLOWS_LISTEN": front.address, "XDG_CONFIG_HOME": str(tmp_path)}),
    )
    assert (by_file.code, by_variable.code) == (0, 0)


@pytest.mark.parametrize(("word", "meant"), [("standard", "std"), ("professional", "pro"), ("1080p", "pro")])
async def test_what_others_call_a_mode_is_refused_with_the_right_word(word: str, meant: str) -> None:
    result = await run("quote", "a fox", "--mode", word)
    assert result.code == 2
    message = " ".join(result.err.replace("│", "").split())
    assert f"'{word}' is not a mode; that is '{meant}' here" in message


async def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    result = await run("get", "vt-1", "--config", str(tmp_path / "absent.toml"))
    assert result.code == 4
    assert "absent.toml does not exist" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate",),
        ("generate", "a fox", "--mode", "8k"),
        ("generate", "a fox", "--duration", "long"),
        ("generate", "a fox", "--duration", "0"),
        ("generate", "a fox", "--label", "team"),
        ("generate", "a fox", "--shot", "a fox"),
        ("generate", "a fox", "--camera-axis", "up=1"),
        ("get",),
        ("get", "vt-1", "--server", "here"),
        ("get", "vt-1", "--state-dir", "/tmp/x"),
        ("--state-dir", "/tmp/x", "get", "vt-1"),
        ("--json", "serve"),
        ("sandbox", "--seconds", "soon"),
        ("no-such-command",),
        ("generate", "\udcff"),
        ("generate", "a fox", "--shot", "3:\udcff"),
        ("generate", "a fox", "--label", "a=\udcff"),
        ("get", "\udcff"),
    ],
)
async def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = await run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err


async def test_serve_without_a_key_is_a_configuration_error(tmp_path: Path) -> None:
    result = await run("serve", "--state-dir", str(tmp_path), env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert result.code == 4
    assert "--provider sandbox" in result.err


async def test_the_sandbox_answers(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    process = await start("sandbox", "--port", "0", "--port-file", str(port_file), "--video", "tiny")
    async with asyncio.timeout(60):
        while not port_file.exists():
            await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port_file.read_text()))
    writer.close()
    await writer.wait_closed()
    del reader
    result = await interrupt(process)
    assert result.code in (0, 130)
    assert "--upstream-url http://127.0.0.1:" in result.err


async def test_the_version_is_told_at_once() -> None:
    code = "import sys; sys.argv = ['kling-flows', '--version']\ntry:\n from kling_flows.cli import main; main()\n"
    code += "except SystemExit: print([name for name in ('grpc', 'pydantic', 'prefect', 'httpx', 'google') "
    code += "if name in sys.modules])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    result, _ = await process.communicate()
    version, imported = result.decode().splitlines()
    assert version.startswith("kling-flows ")
    assert imported == "[]"


async def test_the_exit_codes_are_documented() -> None:
    result = await run("--help")
    assert "130  interrupted" in result.out


async def test_prefect_is_never_imported(front: Front) -> None:
    front.answers = [returns(task())]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "kling_flows.cli",
        "get",
        "vt-1",
        "--server",
        front.address,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    result = await finish(process)
    assert result.code == 0
    assert "kling_flows.cli.client" in result.err
    assert "prefect" not in result.err
