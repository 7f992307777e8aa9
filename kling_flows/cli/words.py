"""Words that options take.

They are those of :mod:`kling_flows.upstream.vocabulary` and of the protos, which take too long to import for a command
line that only wants to print its help. A test keeps them equal: names are the protos', values the provider's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Mode(StrEnum):
    """Quality and price class."""

    STD = "std"
    PRO = "pro"
    FOUR_K = "4k"


#: What other pages and clients call the modes.
OTHER_MODES: Final[Mapping[str, Mode]] = {
    "standard": Mode.STD,
    "professional": Mode.PRO,
    "720p": Mode.STD,
    "1080p": Mode.PRO,
}


class Sound(StrEnum):
    """Whether the video gets generated sound."""

    ON = "on"
    OFF = "off"


class ShotType(StrEnum):
    """Who divides a multi-shot video into shots."""

    CUSTOMIZE = "customize"
    INTELLIGENCE = "intelligence"


class CameraType(StrEnum):
    """How the camera moves."""

    SIMPLE = "simple"
    DOWN_BACK = "down_back"
    FORWARD_UP = "forward_up"
    RIGHT_TURN_FORWARD = "right_turn_forward"
    LEFT_TURN_FORWARD = "left_turn_forward"


class CameraAxis(StrEnum):
    """The axes of a simple camera movement."""

    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    PAN = "pan"
    TILT = "tilt"
    ROLL = "roll"
    ZOOM = "zoom"


class State(StrEnum):
    """States of a video task."""

    QUEUED = "QUEUED"
    SUBMITTING = "SUBMITTING"
    SUBMITTED = "SUBMITTED"
    PROCESSING = "PROCESSING"
    ARCHIVING = "ARCHIVING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    LOST = "LOST"
    UNRESOLVED = "UNRESOLVED"


class LateVideo(StrEnum):
    """What becomes of a video whose task ends before the provider has made it."""

    KEEP_VIDEO = "KEEP_VIDEO"
    DISCARD = "DISCARD"


class DeliveryState(StrEnum):
    """States of a call to a caller's own address."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


class Scope(StrEnum):
    """What a caller of the server may do."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Role(StrEnum):
    """What ``serve`` runs."""

    ALL = "all"
    FRONT = "front"
    RUNNER = "runner"


class Provider(StrEnum):
    """Who is called."""

    KLING = "kling"
    COMETAPI = "cometapi"
    SANDBOX = "sandbox"


class VideoSource(StrEnum):
    """Where the sandbox's videos come from."""

    RENDERED = "rendered"
    TINY = "tiny"
