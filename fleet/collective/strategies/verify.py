"""``verify``: proof now and then that the trainers hold the same parameters."""

from __future__ import annotations

import hashlib

from fleet.collective.strategies.hooks import Strategy, Trainer
from fleet.config import Field
from fleet.errors import FleetError

FIRST_STEPS = 3  # most mistakes that part the trainers show at once
DIGEST_BYTES = 8


class Verify(Strategy):
    """Compare fingerprints of the trainable parameters over the trainers at steps 1 to 3 and every ``every`` steps.

    If one differs, every trainer raises a FleetError that names the first such parameter and the trainers that differ from
    most others. Bytes a step: 8 a parameter, where it compares. Use it with a new script, or a new strategy of one's own.
    """

    name = "verify"
    fields = (Field("every", int, 100, "steps between two comparisons", low=1),)
    conflicts = {"localsgd": "between two averages each trainer's parameters are its own"}

    every: int

    def after_step(self, trainer: Trainer) -> None:
        """Compare."""
        if trainer.step > FIRST_STEPS and trainer.step % self.every:
            return
        trained = [(n, p) for n, p in trainer.parameters if not p.stop_gradient]  # BatchNorm's running values differ by design
        mine = b"".join(hashlib.sha256(p.numpy().tobytes()).digest()[:DIGEST_BYTES] for _, p in trained)
        gathered = trainer.wire.gather(mine)
        for k, (name, _) in enumerate(trained):
            digests = [prints[k * DIGEST_BYTES : (k + 1) * DIGEST_BYTES] for prints in gathered]
            if len(set(digests)) > 1:
                most = max(digests, key=digests.count)
                apart = ", ".join(str(r) for r, digest in enumerate(digests) if digest != most)
                raise FleetError(
                    f"after step {trainer.step} {name} is not the same on all trainers: trainer {apart} differs",
                    at=f"trainer {trainer.rank}",
                    fix="look for what depends on the rank: random numbers, an if, parameters that the script changes by itself",
                )
