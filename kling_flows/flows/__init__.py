"""The Prefect flows."""

from kling_flows.flows.audit import audit
from kling_flows.flows.reconcile import reconcile
from kling_flows.flows.retention import retention
from kling_flows.flows.text_to_video import text_to_video
from kling_flows.flows.text_to_videos import text_to_videos

__all__ = ["audit", "reconcile", "retention", "text_to_video", "text_to_videos"]
