"""The notices: what the policy is told when no agent answers its request, by fault.

`{agent}` is the name that was asked for, `{allowed}` the names that may be asked, `{form}` how to ask. A graph's
grammar may have texts of its own instead (`Grammar.notices`).
"""

from collections.abc import Mapping
from types import MappingProxyType

from aipo.trace import Fault

NOTICES: Mapping[Fault, str] = MappingProxyType(
    {
        Fault.MALFORMED: "Malformed. Write {form}. Agents: {allowed}.",
        Fault.NESTED: "Nested. One request at a time. Agents: {allowed}.",
        Fault.UNCLOSED: "Unclosed. Write {form}. Agents: {allowed}.",
        Fault.EMPTY: "Empty. Write {form}. Agents: {allowed}.",
        Fault.UNKNOWN: "No agent {agent}. Agents: {allowed}.",
        Fault.SPENT: "{agent} has no consults left. Agents: {allowed}.",
        Fault.EXHAUSTED: "No consults left. Go on alone.",
        Fault.UNAVAILABLE: "{agent} is unavailable. Go on.",
        Fault.DECLINED: "{agent} does not answer now. Go on.",
    }
)
