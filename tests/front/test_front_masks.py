"""Read masks: only the fields that are named."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from grpc_server.masks import Reading, parse_reading
from kling_flows.errors import Violation
from kling_flows.ledger import ArtifactRecord, State, VideoTask
from kling_flows.v1 import video_task_pb2 as pb

from .rig import Served, new_record, refused, upstream_record


def read(task: VideoTask, *paths: str, view: int = 0) -> pb.VideoTask:
    violations: list[Violation] = []
    reading = parse_reading(view, FieldMask(paths=paths), violations)
    assert not violations
    return reading.show(task)


@pytest.fixture
def task() -> VideoTask:
    record = new_record("v-1", labels={"a": "b"})
    artifact = ArtifactRecord(
        kind="VIDEO", uri="file:///v", manifest_uri="", size_bytes=1, sha256="ab" * 32, media_type="video/mp4"
    )
    return record.model_copy(
        update={"upstream": upstream_record(record), "artifacts": (artifact,), "state": State.SUCCEEDED}
    )


def test_only_what_is_named_is_shown(task: VideoTask) -> None:
    whole = read(task)

    assert read(task, "name", "state") == pb.VideoTask(name="videoTasks/v-1", state=pb.VideoTask.SUCCEEDED)
    assert read(task, "labels") == pb.VideoTask(labels={"a": "b"})
    assert read(task, "artifacts") == pb.VideoTask(artifacts=whole.artifacts)
    assert read(task, "upstream.task_id") == pb.VideoTask(upstream=pb.Upstream(task_id="812"))
    assert read(task, "upstream.task_id", "upstream") == pb.VideoTask(upstream=whole.upstream)
    assert read(task, "create_time.seconds").create_time.seconds == whole.create_time.seconds
    assert read(task, "end_time", "error", "cost.settled_units") == pb.VideoTask(cost=pb.Cost(settled_units="1.5"))


@pytest.mark.parametrize("view", [pb.VIDEO_TASK_VIEW_UNSPECIFIED, pb.BASIC, pb.FULL])
def test_a_mask_wins_over_the_view(task: VideoTask, view: int) -> None:
    assert read(task, "*", view=view) == read(task)
    assert read(task, "name", "*", view=view) == read(task)
    assert read(task, "text_to_video.prompt", view=view).text_to_video.prompt == "a cat"
    assert not read(task, "text_to_video.prompt", view=view).text_to_video.model_name
    assert read(task, "text_to_video", view=view).text_to_video == read(task).text_to_video


def test_the_spec_is_not_even_made_if_nobody_wants_it() -> None:
    assert parse_reading(0, FieldMask(paths=["name", "name"]), []) == Reading(full=False, paths=("name",))


BAD = {
    "nothing": "has no field 'nothing'; it has name, state",
    "textToVideo": "has no field 'textToVideo'",
    "upstream.nothing": "Upstream has no field 'nothing'",
    "name.x": "taken as a whole",
    "artifacts.uri": "taken as a whole",
    "labels.a": "taken as a whole",
    "": "has no field ''",
    "upstream.": "has no field ''",
    "name,state": "has no field 'name,state'",
    "upstream.*": "has no field '*'",
    "x" * 10_000: "has no field",
}


@pytest.mark.parametrize(("path", "help_"), BAD.items(), ids=[path[:20] for path in BAD])
async def test_a_path_that_leads_nowhere_is_refused_and_named(served: Served, path: str, help_: str) -> None:
    name = (await served.create()).name
    mask = FieldMask(paths=["name", path])
    for call in (served.get(name, read_mask=mask), served.list(read_mask=mask)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert refusal.fields == ["read_mask"]
        assert help_ in refusal.violations[0].description
        assert repr(path[:20])[1:-1] in refusal.violations[0].description


async def test_get_and_list_show_the_same(served: Served) -> None:
    name = (await served.create(labels={"a": "b"})).name
    mask = FieldMask(paths=["name", "labels", "text_to_video.prompt"])
    one = await served.get(name, read_mask=mask)

    assert one.text_to_video.prompt == "a cat"
    assert list((await served.list(read_mask=mask)).video_tasks) == [one]
    assert not (await served.list(read_mask=mask)).video_tasks[0].revision
