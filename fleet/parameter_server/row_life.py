"""Row life: when an id earns its row (admission) and when it loses it again (eviction). ``docs/row_life.md`` says what each means.

What the user writes on an Embedding becomes a Life, which is part of the table's spec: the same on all trainers and servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fleet import config
from fleet.config import Field
from fleet.errors import ConfigError

MAX_COUNT = 2047  # sightings that an id without a row can count: Index::kMaxCount
NUM_SHARDS = 1024  # logical shards of a table: fixed, so that a snapshot of N servers loads on M
AT = "parameter_server.Embedding"

_UNSEEN = Field("unseen", str, "zero", "how an id without a row reads: as zeros, or as the value its row would begin with",
                choices=("zero", "initial"))  # fmt: skip
_SHOWN = (
    Field("nonclick", float, 0.1, "what a show without a click adds to the score", low=0),
    Field("click", float, 1.0, "what a show with a click adds", low=0),
)
ADMISSION: dict[str, tuple[Field, ...]] = {
    "count": (Field("count", int, None, "sightings that earn a row", low=1, high=MAX_COUNT), _UNSEEN),
    "probability": (Field("probability", float, None, "of each sighting to earn a row", low=1e-9, high=1), _UNSEEN),
    "score": (Field("score", float, 10.0, "the score that earns a row", low=1e-9, high=1e30), *_SHOWN, _UNSEEN),
}
EVICTION: dict[str, tuple[Field, ...]] = {
    "age": (Field("steps", int, None, "rows that were not pushed to for more steps go", low=1, high=10**15),),
    "score": (
        Field("every", int, None, "steps of one period", low=1, high=10**12),
        Field("below", float, 0.8, "rows with a smaller score go", low=1e-9, high=1e30),
        Field("decay", float, 0.98, "what is left of a score after one period", low=1e-6, high=1),
        Field("age", int, 30, "periods after which a row goes that was not pushed to", low=1, high=1000),
        *_SHOWN,
    ),
    "capacity": (
        Field("rows", int, None, "rows of the table over all servers", low=1, high=10**15),
        Field("keep", str, "recent", "which rows stay: pushed to last, or seen most often", choices=("recent", "frequent")),
    ),
}


class Life(NamedTuple):
    """The rules of one table. The defaults are those of a table whose rows come at once and stay."""

    admission: str = "all"  # or a name in ADMISSION
    sightings: int = 1  # that earn a row by count
    probability: float = 1.0
    score: float = 1.0
    unseen: str = "initial"  # or zero
    age: int = 0  # steps; 0: rows of any age stay
    nonclick: float = 1.0
    click: float = 1.0
    below: float = 0.0  # 0: rows of any score stay
    decay: float = 1.0
    every: int = 1  # steps
    capacity: int = 0  # rows over all servers; 0: no limit
    keep: str = "recent"  # or frequent

    @property
    def scored(self) -> bool:
        """Return whether rows carry a score, 4 bytes each."""
        return self.below > 0 or self.keep == "frequent"

    @property
    def evicts(self) -> bool:
        """Return whether rows are ever lost."""
        return self.age > 0 or self.capacity > 0

    @property
    def num_sightings(self) -> int:
        """Return what a push carries beside gradients, per key: 0 nothing, 1 shows, 2 shows and clicks."""
        by_score = self.admission == "score" or self.scored
        if by_score and self.click != self.nonclick:
            return 2
        return int(by_score or self.admission != "all")

    def of_server(self, num_shards: int) -> dict[str, float]:
        """Return what core.Table takes: the rules, with the part of the capacity of a server that holds so many shards."""
        return {
            "admission": ("all", *ADMISSION).index(self.admission),
            "admit_count": self.sightings,
            "admit_probability": self.probability,
            "admit_score": self.score,
            "unseen_zero": self.unseen == "zero",
            "age_steps": self.age,
            "scored": self.scored,
            "nonclick": self.nonclick,
            "click": self.click,
            "decay": self.decay,
            "decay_steps": self.every,
            "delete_below": self.below,
            "capacity": max(1, self.capacity * num_shards // NUM_SHARDS) if self.capacity else 0,
            "keep_frequent": self.keep == "frequent",
        }

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON has them."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Life:
        """Read what :meth:`to_json` wrote.

        Raises:
            ConfigError: an unknown field, a wrong type, a value out of range, or rules that do not go together.
        """
        life = cls(**config.check(_FIELDS, value, block="life", at=lambda name: f"life.{name}"))
        if (life.below > 0 or life.decay < 1) and not life.age:
            raise ConfigError("a score that decays needs an age", at="life.age", fix="set age too")
        return life

    def __repr__(self) -> str:
        return "Life(" + ", ".join(f"{name}={value!r}" for name, value in self.to_json().items()) + ")"


_FIELDS = (
    Field("admission", str, "all", "", choices=("all", *ADMISSION)),
    Field("sightings", int, 1, "", low=1, high=MAX_COUNT),
    Field("probability", float, 1.0, "", low=1e-9, high=1),
    Field("score", float, 1.0, "", low=1e-9, high=1e30),
    Field("unseen", str, "initial", "", choices=("zero", "initial")),
    Field("age", int, 0, "", low=0, high=10**15),
    Field("nonclick", float, 1.0, "", low=0, high=1e30),
    Field("click", float, 1.0, "", low=0, high=1e30),
    Field("below", float, 0.0, "", low=0, high=1e30),
    Field("decay", float, 1.0, "", low=1e-6, high=1),
    Field("every", int, 1, "", low=1, high=10**12),
    Field("capacity", int, 0, "", low=0, high=10**15),
    Field("keep", str, "recent", "", choices=("recent", "frequent")),
)


def of(admission: Any = None, eviction: Any = None, entry: Any = None) -> Life:
    """Return the life that an Embedding's arguments ask for.

    Args:
        admission: ``{"by": "count", "count": 5}``, by probability, or by score; None: every id has a row at once.
        eviction: ``{"by": "age", "steps": 100000}``, by score, or by capacity, or a list of several; None: rows stay.
        entry: one of Paddle's: CountFilterEntry, ProbabilityEntry, ShowClickEntry.

    Raises:
        ConfigError: no such rule or field, a wrong type, a value out of range, or rules that do not go together.
    """
    if entry is not None:
        if admission is not None:
            raise ConfigError("admission and entry are both given", at=AT, fix="leave entry out: admission says the same")
        admission = _of_entry(entry)
    fields: dict[str, Any] = {}
    if admission is not None:
        fields.update(_rule("admission", ADMISSION, admission))
        fields["admission"] = fields.pop("by")
        if "count" in fields:
            fields["sightings"] = fields.pop("count")
    rules = [] if eviction is None else [eviction] if isinstance(eviction, Mapping) else eviction
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise ConfigError(
            f"eviction must be a dict or a list of them, got {eviction!r}", at=AT, fix='{"by": "age", "steps": 100000}'
        )
    for rule in rules:
        _add_eviction(fields, _rule("eviction", EVICTION, rule))
    return Life(**fields)


def _add_eviction(fields: dict[str, Any], rule: dict[str, Any]) -> None:
    kind = rule.pop("by")
    at = f"{AT}(eviction=)"
    if kind == "capacity":
        rule = {"capacity": rule["rows"], "keep": rule["keep"]}
        taken = "capacity" in fields
    else:
        taken = "age" in fields
        if taken and kind != "age" and "below" not in fields or kind == "age" and "below" in fields:
            fix = "leave the one by age out: the one by score has an age of its own, in periods"
            raise ConfigError("eviction by age and by score are both given", at=at, fix=fix)
        rule = {"age": rule["steps"]} if kind == "age" else {**rule, "age": rule["age"] * rule["every"]}
    if taken:
        raise ConfigError(f"eviction by {kind} is given twice", at=at, fix="give each kind once")
    for name in ("nonclick", "click"):
        if name in rule and fields.get(name, rule[name]) != rule[name]:
            what = f"{name} is {fields[name]:g} in admission and {rule[name]:g} in eviction"
            raise ConfigError(what, at=at, fix="a row has one score: give both the same")
    fields.update(rule)


def _rule(block: str, kinds: dict[str, tuple[Field, ...]], given: Any) -> dict[str, Any]:
    at = f"{AT}({block}=)"
    if not isinstance(given, Mapping) or given.get("by") not in kinds:
        by = given.get("by") if isinstance(given, Mapping) else ""
        fix = config.did_you_mean(str(by or ""), kinds)
        raise ConfigError(f'{block} must be a dict with "by", got {given!r}', at=at, fix=fix)
    kind = given["by"]
    fields = kinds[kind]
    values = config.check(fields, {k: v for k, v in given.items() if k != "by"}, block=block, at=lambda _: at)
    missing = [f for f in fields if values[f.name] is None]
    if missing:
        field = missing[0]
        raise ConfigError(f"{block} by {kind} needs {field.name}, {field.expected()}", at=at, fix=f"set it: {field.meaning}")
    return {"by": kind, **{f.name: float(values[f.name]) if f.kind is float else values[f.name] for f in fields}}


def _of_entry(entry: Any) -> dict[str, Any]:
    kind = type(entry).__name__
    if kind == "CountFilterEntry":
        return {"by": "count", "count": entry._count_filter}
    if kind == "ProbabilityEntry":
        return {"by": "probability", "probability": entry._probability}
    if kind == "ShowClickEntry":  # the names of its variables are the static graph's: clicks come as embedding(ids, clicks=labels)
        return {"by": "score"}
    fix = "give CountFilterEntry, ProbabilityEntry or ShowClickEntry of paddle.distributed, or admission="
    raise ConfigError(f"{entry!r} is no entry", at=f"{AT}(entry=)", fix=fix)
