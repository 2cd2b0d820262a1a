"""The error tree. An error cannot be built without a place and a remedy.

    FleetError                    catch this to catch everything that fleet raises on purpose
    ├── ConfigError (ValueError)  a value, flag, field or call that cannot be obeyed
    │   └── StrategyConflict      two requests that exclude each other
    ├── RendezvousError           the processes of a job did not meet, or did not meet in the same place
    ├── PeerLost                  a trainer or a server died or stopped answering
    ├── TableError                an id, row, gradient or table that a server cannot accept
    ├── SnapshotError             a snapshot or checkpoint that is missing, damaged or does not fit
    └── TaskError                 a member of a fan-out failed in a way that has no exception of its own
        ├── MemberLost            its worker died under it: a signal, an exit, the kernel's memory killer
        ├── MemberTimeout (TimeoutError)  it ran longer than `timeout` and was killed
        └── NotPicklable (TypeError)      a function, item or result that cannot travel between processes
"""

from __future__ import annotations


class FleetError(Exception):
    """State what went wrong, where, and what to do about it.

    Args:
        what: one sentence, with the offending value in it.
        at: the place: ``file:line``, ``$.strategy.buckets``, ``trainer 3``...
        fix: what the reader can do now.
    """

    def __init__(self, what: str, *, at: str, fix: str) -> None:
        super().__init__(what, at, fix)
        self.what, self.at, self.fix = what, at, fix

    def __str__(self) -> str:
        return f"{self.what}\n  at:  {self.at}\n  fix: {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments: the default recipe of BaseException cannot rebuild them.
        return _rebuild, (type(self), self.what, self.at, self.fix)


def _rebuild(kind: type[FleetError], what: str, at: str, fix: str) -> FleetError:
    return kind(what, at=at, fix=fix)


class ConfigError(FleetError, ValueError):
    """A request that cannot be obeyed. Retrying the same call fails again."""


class StrategyConflict(ConfigError):
    """Two requests that exclude each other. Retrying the same call fails again."""


class RendezvousError(FleetError):
    """The processes did not meet, or met in different places. Safe to start the job again."""


class PeerLost(FleetError):
    """Another process of the job died or fell silent. This process cannot go on; start the job again."""


class TableError(FleetError):
    """A server refused ids, gradients or a table; its rows are as they were. Retrying fails again."""


class SnapshotError(FleetError):
    """A snapshot or checkpoint is missing, damaged or does not fit the job; nothing was loaded."""


class TaskError(FleetError):
    """A member of a fan-out failed, or the fan-out ended before it did. What is finished stays in the journal."""


class MemberLost(TaskError):
    """The worker of a member died: a signal, ``os._exit``, the kernel's memory killer. A retry may succeed."""


class MemberTimeout(TaskError, TimeoutError):
    """A member ran longer than its ``timeout`` and was killed. A retry may succeed."""


class NotPicklable(TaskError, TypeError):
    """A function, item or result cannot travel between processes; the variable that holds it back is named."""
