"""Traces: the record of one rollout, and how traces are stored, listed and searched."""

from aipo.trace.segment import Role, Segment, concatenate, of_policy, segment
from aipo.trace.types import SCHEMA_VERSION, Call, Consult, Fault, Mode, StopReason, Trace, Visit

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
    "of_policy",
    "segment",
]
