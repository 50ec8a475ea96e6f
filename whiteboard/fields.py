"""Field types that mean the same in every API: ids and moments, checked strictly, with a cure in every message."""

import re
import time
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, ValidationInfo

MAX_CLOCK_SKEW_S = 300.0  # between a sender's clock and ours, where the validation's context names no other
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")


def _text(value: object) -> object:
    if not isinstance(value, str) or not _DATE.match(value):  # a bare number would be taken for Unix time
        raise ValueError("send the time as text with its zone, such as 2026-01-31T08:15:00Z")
    return value


def _plausible(value: datetime, info: ValidationInfo) -> datetime:
    seconds = value.timestamp()
    if seconds < 0:
        raise ValueError("the time lies before 1970; send when it happened, and check the sender's clock")
    if seconds > time.time() + (info.context or {}).get("max_clock_skew_s", MAX_CLOCK_SKEW_S):
        raise ValueError("the time lies in the future; send when it happened, and check the sender's clock")
    return value


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # in JSON 3.0 is an integer too


Identifier = Annotated[str, Field(strict=True, min_length=1, max_length=64)]
Moment = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_plausible)]
WHOLE = BeforeValidator(_whole)  # goes last into an Annotated[int, …]
