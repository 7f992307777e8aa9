"""Callback deliveries in words for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.table import Table
from rich.text import Text

from kling_flows.cli.describe import state_text, when
from kling_flows.cli.output import plain_table, printable
from kling_flows.cli.request import short_id
from kling_flows.v1.video_task_service_pb2 import CallbackDelivery

_NAME_PREFIX: Final = "callbackDeliveries/"
_STYLES: Final = {CallbackDelivery.DELIVERED: "green", CallbackDelivery.DEAD: "red"}


def delivery_name(number: str) -> str:
    """The name of the delivery that a person means by its number or its name."""
    return number if number.startswith(_NAME_PREFIX) else _NAME_PREFIX + number


def delivery_table(deliveries: Iterable[CallbackDelivery]) -> Table:
    """One row for each delivery."""
    table = plain_table("NUMBER", "TASK", "TELLS", "STATE", "TRIES", "NEXT", "LAST ERROR")
    for delivery in deliveries:
        name = CallbackDelivery.State.Name(delivery.state)
        style = _STYLES.get(delivery.state, "cyan")
        table.add_row(
            delivery.name.removeprefix(_NAME_PREFIX),
            short_id(delivery.video_task),
            state_text(delivery.video_task_state),
            Text(name, style),
            str(delivery.attempts),
            when(delivery.next_attempt_time) if delivery.HasField("next_attempt_time") else "",
            printable(delivery.last_error),
        )
    return table
