"""Every error that the orchestrator raises on purpose, by what went wrong.

``shared`` raises these; only ``orchestrator_api.errors`` knows which HTTP status
and code each becomes. Facts are attributes, never only words in a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class OrchestratorError(Exception):
    """Base of all errors raised on purpose."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with the input: where (``steps[3].retry.maxAttempts``) and what."""

    field: str
    message: str


class InvalidInput(OrchestratorError):
    """The input breaks a rule. ``problems`` names each place, sorted; ``found`` counts all there are."""

    def __init__(self, message: str, problems: Iterable[Problem] = (), *, found: int = 0) -> None:
        super().__init__(message)
        self.problems = tuple(sorted(problems))
        self.found = found or len(self.problems)


class InvalidArgument(InvalidInput):
    """A query parameter, path part or header breaks a rule."""


class IdempotencyKeyRequired(InvalidArgument):
    """A call that changes something came without an idempotency key."""


class InvalidPageToken(InvalidArgument):
    """A page token that we did not make for this tenant, endpoint and these filters."""


class InvalidInputs(InvalidInput):
    """A run's inputs break the DAG's ``metadata.inputsSchema``."""


class InvalidDag(InvalidInput):
    """A DAG definition that breaks a rule."""


class DagCycle(InvalidDag):
    """The steps form a cycle; ``cycle`` lists the ids, the first one repeated at the end.

    The message leaves out the middle of a long one: 10,000 ids are a megabyte.
    """

    def __init__(self, cycle: tuple[str, ...]) -> None:
        shown = cycle if len(cycle) <= 20 else (*cycle[:18], "...", cycle[-1])
        text = " -> ".join(shown)
        super().__init__(f"steps form a cycle: {text}", [Problem("edges", f"cycle: {text}")])
        self.cycle = cycle


class UnknownStep(InvalidDag):
    """An edge or an expression names a step that the DAG does not have."""


class DuplicateStep(InvalidDag):
    """Two steps have the same id."""


class UnknownPlugin(InvalidDag):
    """``uses`` names a plugin that this installation does not have."""


class SignatureRequired(InvalidDag):
    """The installation takes signed definitions only."""


class SignatureInvalid(InvalidDag):
    """The signature of a definition does not hold."""


class Unauthenticated(OrchestratorError):
    """No bearer token, or one that does not hold."""


class Forbidden(OrchestratorError):
    """The caller is known, and may not do this."""


class TenantRequired(Forbidden):
    """The tenant header is missing."""


class TenantForbidden(Forbidden):
    """The tenant header names a tenant that the token does not hold."""


class InsufficientScope(Forbidden):
    """The token lacks ``scope``."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this call needs the scope {scope}")
        self.scope = scope


class OperatorOnly(Forbidden):
    """The call is for an operator, whose token is good for every tenant."""


class NotFound(OrchestratorError):
    """It does not exist, or another tenant owns it: the two cannot be told apart."""


class DagNotFound(NotFound):
    """No such DAG version."""


class RunNotFound(NotFound):
    """No such run."""


class StepNotFound(NotFound):
    """No such step in the run."""


class ArtifactNotFound(NotFound):
    """No such artifact of this tenant."""


class Conflict(OrchestratorError):
    """The request is sound, but the state of its object does not allow it."""


class DagVersionConflict(Conflict):
    """The version exists with another definition."""


class DagDisabled(Conflict):
    """The DAG version takes no new runs."""


class RunTokenConflict(Conflict):
    """The run token was used with another DAG or other inputs."""


class RunAlreadyFinished(Conflict):
    """The run completed or failed; it cannot be cancelled."""


class IdempotencyInProgress(Conflict):
    """The first call with this idempotency key is still being served."""


class IdempotencyKeyReused(InvalidInput):
    """The idempotency key was used for a call with another body."""


class LimitExceeded(OrchestratorError):
    """Something is larger, or more often, than the installation allows."""


class RateLimited(LimitExceeded):
    """The tenant has made more requests than it may within this minute."""

    def __init__(self, limit: int, retry_after_seconds: int) -> None:
        super().__init__(f"more than {limit} requests a minute; go on in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class InputsTooLarge(LimitExceeded):
    """A run's inputs are over the size limit."""


class TenantStreamsExceeded(LimitExceeded):
    """The tenant has as many streams open as it may have."""


class TooManyQueuedSteps(LimitExceeded):
    """A start would queue more steps than its tenant may have."""

    def __init__(self, *, limit: int, queued: int, more: int) -> None:
        super().__init__(
            f"the run would queue {more} steps beside {queued} that wait already; the tenant may have {limit}"
        )
        self.limit, self.queued, self.more = limit, queued, more


class Unavailable(OrchestratorError):
    """A store is out of reach for now; nothing was lost and the caller may try again."""


class StoreUnavailable(Unavailable):
    """PostgreSQL or the artifact store is out of reach."""


class QueueUnavailable(Unavailable):
    """Redis is out of reach."""
