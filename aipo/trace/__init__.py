"""Traces: the record of one rollout, and how traces are stored, listed and searched."""

from aipo.trace.segment import (
    Consult,
    Fault,
    Role,
    Segment,
    concatenate,
    histories,
    of_policy,
    segment,
    turns_behind_replies,
)
from aipo.trace.types import SCHEMA_VERSION, Call, Mode, StopReason, Trace, Visit

__all__ = [
    "SCHEMA_VERSION",
    "Call",
    "Consult",
    "Fault",
    "Mode",
    "Role",
    "Segment",
    "StopReason",
    "Trace",
    "Visit",
    "concatenate",
    "histories",
    "of_policy",
    "segment",
    "turns_behind_replies",
]
