"""Every error that AIPO raises on purpose.

    AipoError
    ├── ConfigError        a key, value or combination of settings that is not allowed
    ├── LoadError          a graph, environment, model or prompt that cannot be found or imported
    ├── GraphError         a graph that breaks the contract of `aipo.rollout.graph`
    ├── TraceError         a trace that breaks an invariant, or a file of traces that cannot be read
    ├── TaskError          a task that cannot be used (no prompt, no answer)
    ├── ScoreError         an answer that could not be scored: the machine failed, not the policy
    ├── PolicyError        the policy could not sample, or sampled what cannot be trained on
    ├── AgentError         a collaborating agent failed for good
    │   └── AnswerError    its server answered with what is no reply; another attempt may bring one
    ├── ReplayError        a replay needs a live call, and may make none
    ├── LimitError         a limit that the configuration sets has stopped the run
    ├── TrainError         rows, settings or a checkpoint that cannot be trained on
    ├── RunError           a run folder that is in the way, is missing or is not a run
    └── OtherRankError     another process of the same run stopped, which says why

A message says what is wrong, what was got, what is allowed, and where. During a rollout an error
is data: it ends one rollout, is recorded on its trace and never stops its siblings.
"""


class AipoError(Exception):
    """Root of the tree. `except AipoError` catches everything AIPO raises on purpose."""


class ConfigError(AipoError, ValueError):
    """A setting is unknown, has a wrong value or contradicts another one."""


class LoadError(AipoError, ImportError):
    """Something named in the configuration cannot be found or imported."""


class GraphError(AipoError, TypeError):
    """A graph does not meet the contract of `aipo.rollout.graph`."""


class TraceError(AipoError, ValueError):
    """A trace breaks an invariant, or a file of traces cannot be read."""


class TaskError(AipoError, ValueError):
    """A task cannot be used."""


class ScoreError(AipoError, RuntimeError):
    """An answer could not be scored, which says nothing about whether it is right."""


class PolicyError(AipoError, RuntimeError):
    """The policy could not sample, or sampled something that cannot be trained on."""


class AgentError(AipoError, RuntimeError):
    """A collaborating agent failed after its retries."""


class AnswerError(AgentError):
    """An agent's server answered with something that is no reply; another attempt may bring one."""


class ReplayError(AipoError, LookupError):
    """A replay asks something that was not recorded, and no live model may answer."""


class LimitError(AipoError, RuntimeError):
    """A limit that the configuration sets (cost, failure rate) has stopped the run; it can go on."""


class TrainError(AipoError, RuntimeError):
    """Training cannot start or go on."""


class RunError(AipoError, OSError):
    """A run folder is in the way, is missing or does not hold a run."""


class OtherRankError(AipoError, RuntimeError):
    """Another process that trains the same policy stopped; this one is well."""


def one_of(what: str, got: object, allowed: object, where: str) -> str:
    """The four parts of a message, in the order in which people read them."""
    return f"{what}: got {got!r}, allowed {allowed}, in {where}"
