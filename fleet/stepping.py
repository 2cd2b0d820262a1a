"""The optimizer that the script gets: one step of it, statement by statement."""

from __future__ import annotations

from typing import Any

from fleet import timeline


class DistributedOptimizer:
    """The script's own optimizer, with ``step`` and ``clear_grad`` that also serve the tables.

    Everything else (``get_lr``, ``state_dict``...) is the inner optimizer's.
    """

    def __init__(self, inner: Any, job: Any) -> None:
        self.inner, self._job = inner, job
        self._in_group = False  # the last step() was a micro-step

    def step(self) -> None:
        """Take one step: push the rows' gradients, update the dense parameters; or end a micro-step, if a strategy says so.

        Raises:
            ConfigError: nobody said how the data are shared among the trainers.
            PeerLost, TableError, RendezvousError: the job cannot go on.
        """
        job, runtime, in_force = self._job, self._job.runtime, self._job.in_force
        job.before_step()
        self._in_group = not in_force.applies()
        if self._in_group:
            return  # a micro-step: its gradients wait for those of the next ones
        runtime.steps += 1
        for note in runtime.before_push:
            note()
        if job.reducer is not None:
            job.reducer.before_step()
        in_force.run("on_gradients")
        if job.dense is not None:
            job.dense.collect()
        if job.session is not None:
            job.session.push(float(self.inner.get_lr()))
        if job.dense is not None:
            job.dense.follow()
        elif self._has_dense():
            in_force.run("on_update")
            began = timeline.now()
            try:
                self.inner.step()
            finally:
                timeline.mark("apply", "optimizer", began)
                in_force.run("after_update")
        job.tell_trainer()
        in_force.run("after_step")
        for follow in runtime.after_step:
            follow()

    def minimize(self, loss: Any, *_: Any, **__: Any) -> None:
        """Take one step; the script has called ``loss.backward()``, as Paddle's dynamic graph asks."""
        self.step()

    def clear_grad(self, set_to_zero: bool = True) -> None:
        """Drop the gradients of dense parameters and of rows; those of a group of micro-steps stay until its end."""
        if self._in_group:
            return
        if self._has_dense():
            self.inner.clear_grad(set_to_zero)
        for parameter in self._job.in_force.left_out():
            parameter.clear_gradient(set_to_zero)
        if self._job.session is not None:
            self._job.session.clear()
        if self._job.dense is not None:
            self._job.dense.clear()

    clear_gradients = clear_grad

    def _has_dense(self) -> bool:
        """Return whether a parameter is left after the embeddings moved: Paddle's optimizers fail on an empty list."""
        return self.inner._parameter_list is None or len(self.inner._parameter_list) > 0

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "_job", "_in_group"):
            raise AttributeError(name)
        return getattr(self.inner, name)
