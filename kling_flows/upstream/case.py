"""A request beside what it is measured against, and what several rules need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from kling_flows.upstream.capabilities import Abilities, CapabilityMap, ProviderCapabilities, capability_map
from kling_flows.upstream.constants import Dialect, Provider
from kling_flows.upstream.request import TextToVideoRequest
from kling_flows.upstream.vocabulary import Rule, ShotType
from kling_flows.upstream.wording import listed

_VOICE_REFERENCE: Final = re.compile(r"<<<voice_([0-9]{1,9})>>>")

#: Path of the field, the rule that it breaks, and what to do.
Finding: TypeAlias = tuple[str, Rule, str]


@dataclass(frozen=True, slots=True)
class Case:
    """A request beside what it is measured against; ``model`` is ``None`` if no rule of a model applies."""

    request: TextToVideoRequest
    provider: Provider
    dialect: Dialect
    map: CapabilityMap
    narrowed: ProviderCapabilities
    model: Abilities | None

    @classmethod
    def of(cls, request: TextToVideoRequest, provider: Provider, dialect: Dialect) -> Case:
        known = capability_map()
        row = known.model.get(request.model_name)
        return cls(
            request=request,
            provider=provider,
            dialect=dialect,
            map=known,
            narrowed=known.provider[provider],
            # What a retired model could do is of no use to somebody who has to choose another.
            model=row.abilities(dialect) if row is not None and row.living else None,
        )

    @property
    def customized(self) -> bool:
        return self.request.multi_shot and self.request.shot_type is ShotType.CUSTOMIZE

    @property
    def prompt_limit(self) -> int:
        own = self.model.prompt_limit if self.model else None
        return self.narrowed.prompt_limit if own is None else own

    def lacks(self, field: str) -> bool:
        """Whether the dialect cannot express a field, so that no rule of a model need be told beside that."""
        return field in self.map.dialect[self.dialect].absent_fields

    def able(self, ability: Callable[[Abilities], object]) -> list[str]:
        """Names of the models that can do something in this dialect."""
        rows = ((name, self.map.abilities(name, self.dialect)) for name in self.map.living_in(self.dialect))
        return [name for name, row in rows if row is not None and ability(row)]


def check_length(path: str, value: str, limit: int) -> Iterator[Finding]:
    # Kling says "characters" and no more; code points are the stricter reading of those that people mean by it.
    if len(value) > limit:
        yield path, Rule.TOO_LONG, f"It has {len(value)} characters; shorten it to {limit}."


def check_voice_references(path: str, value: str, case: Case) -> Iterator[Finding]:
    known = len(case.request.voice_list)
    wrong = {int(number) for number in _VOICE_REFERENCE.findall(value)} - set(range(1, known + 1))
    if wrong:
        named = listed([f"<<<voice_{number}>>>" for number in sorted(wrong)], "and")
        yield path, Rule.CONTRADICTION, f"It refers to {named}, and voice_list has {known or 'no'} voices."
