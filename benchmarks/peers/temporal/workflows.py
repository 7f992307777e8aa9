"""One workflow per video, with the default retry policy: 1 s, doubled up to 100 s, without end
(https://docs.temporal.io/encyclopedia/retry-policies).
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import Activities, Job

SHORT = {"start_to_close_timeout": timedelta(seconds=30)}
# With a heartbeat, or a dead worker is noticed only when all that time is up:
# https://docs.temporal.io/develop/python/activities/timeouts
LONG = {"start_to_close_timeout": timedelta(hours=1), "heartbeat_timeout": timedelta(seconds=30)}


@workflow.defn
class Video:
    @workflow.run
    async def run(self, job: Job) -> None:
        task_id = await workflow.execute_activity_method(Activities.create, job, **SHORT)
        url = await workflow.execute_activity_method(Activities.wait, task_id, **LONG)
        path = None
        if url:
            path = await workflow.execute_activity_method(Activities.download, args=[job, url], **LONG)
        await workflow.execute_activity_method(Activities.finish, args=[job, path], **SHORT)
