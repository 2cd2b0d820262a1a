"""``parameter_server``: the block of a strategy that moves tables to servers. Declared here, obeyed in this package."""

from fleet.config import Field

NAME = "parameter_server"
FIELDS: tuple[Field, ...] = (
    Field("consistency", str, "sync", "what a pull may miss and what is waited for", choices=("sync", "async")),
    Field("prefetch", int, 1, "async: batches whose rows are asked for ahead of their turn", low=0, high=1),
    Field("dense", str, "allreduce", "how dense parameters meet", choices=("allreduce",)),
    Field("row_optimizer", str, None, "None: the script's own; rowwise_adagrad keeps one float of state a row",
          choices=("sgd", "adagrad", "rowwise_adagrad", "adam"), none_ok=True),
    Field("on_server_loss", str, "rollback", "what a job with --server_restarts does when one is lost (docs/failure.md)",
          choices=("rollback",)),
)  # fmt: skip
CONFLICTS: dict[str, str] = {}
