"""A flag for every strategy of fleet, and what a run with them cost."""

import contextlib
import json
import time
from pathlib import Path

import yaml

import fleet
from fleet.strategy import kinds

KEPT = Path("strategies.json")  # what earlier runs cost, by their settings
UNTIMED = 8  # backwards in which memory is made and caches are filled


def add_flags(parser):
    """Give the parser ``--NAME [FIELD=VALUE ...]`` for every strategy."""
    for name, kind in kinds().items():
        fields = "; ".join(f"{field.name}: {field.meaning}, default {field.default}" for field in kind.fields)
        told = f"{kind.__doc__.splitlines()[0]} {fields}".replace("%", "%%")
        parser.add_argument(f"--{name}", nargs="*", metavar="FIELD=VALUE", help=told)


def chosen(args):
    """Return the strategy that the flags ask for."""
    asked = {name: getattr(args, name) for name in kinds() if getattr(args, name) is not None}
    return fleet.DistributedStrategy(**{
        name: {field: yaml.safe_load(value) for field, _, value in (one.partition("=") for one in given)} or True
        for name, given in asked.items()
    })  # fmt: skip


def averages(strategy):
    """Evaluate with what ``ema`` follows, if it is on."""
    return fleet.ema_weights() if strategy.ema else contextlib.nullcontext()


class Cost(fleet.Strategy):
    """Changes nothing: counts backwards, bytes and time. It is written as a strategy of one's own, see own.py."""

    name = "cost"

    def __init__(self, strategy, args):
        super().__init__()
        self.backwards, self.num_bytes, self.before, self.held, self.times = 0, 0, 0, 0, []
        self.encoded = any(kind.encodes and getattr(strategy, name) is not None for name, kind in kinds().items())
        local = strategy.localsgd or strategy.post_localsgd or strategy.adaptive_localsgd
        self.last_met = local["begin_step"] if local else None  # later steps send parameters, and no gradients
        on = {name: getattr(args, name) for name in kinds() if getattr(args, name) is not None}
        self.what = " ".join(" ".join([f"--{name}", *given]) for name, given in on.items()) or "plain"
        self.script = {name: value for name, value in vars(args).items() if name not in kinds()}
        strategy.custom = [self]

    def meets(self, trainer):  # once a backward, where a script has no fleet.mean_loss
        self.backwards += 1
        self.times.append(time.perf_counter())
        return "now"

    def after_step(self, trainer):
        sent = trainer.wire.bytes_sent  # by codecs and strategies; gradients that travel as they are do not pass there
        self.num_bytes, self.before = self.num_bytes + sent - self.before, sent
        if trainer.world_size > 1 and not self.encoded and (self.last_met is None or trainer.step <= self.last_met):
            self.num_bytes += sum(4 * int(p.size) for _, p in trainer.parameters if not p.stop_gradient)

        if not self.held:  # the optimizer has made its state by now
            tensors = [value for value in trainer.optimizer.state_dict().values() if hasattr(value, "element_size")]
            self.held = sum(int(value.size) * value.element_size() for value in tensors)

    def report(self, accuracy):
        """Print, on trainer 0, what a batch cost (on the trainer that had most), beside the plain run with the same settings."""
        timed = self.times[min(UNTIMED, len(self.times) - 2) :]
        mine = {"bytes_a_batch": round(self.num_bytes / self.backwards), "optimizer_bytes": self.held,
                "ms_a_batch": round((timed[-1] - timed[0]) / (len(timed) - 1) * 1e3, 2)}  # fmt: skip
        found = {name: fleet.all_reduce(value, op="max") for name, value in mine.items()}
        found["accuracy"] = round(float(accuracy), 4)
        if fleet.rank() != 0:
            return
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        runs = kept.setdefault(json.dumps({**self.script, "trainers": fleet.world_size()}), {})
        runs[self.what] = found
        KEPT.write_text(json.dumps(kept, indent=1))
        plain = runs.get("plain")
        if plain is None:
            print("no plain run with these settings yet: run once without a strategy to see both")
        for name, run in {**({"plain": plain} if plain else {}), self.what: found}.items():
            print(f"{name}: {run['bytes_a_batch']:,} bytes sent and {run['ms_a_batch']:.1f} ms a batch, "
                  f"{run['optimizer_bytes']:,} bytes of optimizer state, accuracy {run['accuracy']:.4f}")  # fmt: skip
        if plain is not None and self.what != "plain":
            parts = {name: found[name] / max(plain[name], 1) for name in mine}
            more = found["accuracy"] - plain["accuracy"]
            print(f"beside plain: {parts['bytes_a_batch']:.3f} of the bytes, {parts['ms_a_batch']:.2f} of the time, "
                  f"{parts['optimizer_bytes']:.2f} of the optimizer's state, {more:+.4f} accuracy")  # fmt: skip
