"""What a user may say of row life, what is refused with the nearest name, and what Paddle's entries become."""

from __future__ import annotations

from typing import Any

import paddle.distributed as dist
import pytest
from servers import spec

from fleet.errors import ConfigError, TableError
from fleet.parameter_server.row_life import Life, of
from fleet.parameter_server.spec import TableSpec

COUNT = {"by": "count", "count": 5}
AGE = {"by": "age", "steps": 9}
SCORE = {"by": "score", "every": 100}


def test_what_is_said_becomes_a_life() -> None:
    assert of() == Life() and repr(Life()) == "Life()" and not Life().to_json()
    assert of(COUNT) == Life("count", sightings=5, unseen="zero")
    assert of({**COUNT, "unseen": "initial"}) == Life("count", sightings=5)
    assert of(eviction=AGE) == of(eviction=[AGE]) == Life(age=9)
    both = of({"by": "score"}, [SCORE, {"by": "capacity", "rows": 7, "keep": "frequent"}])
    assert both == Life("score", score=10.0, unseen="zero", age=3000, nonclick=0.1, click=1.0, below=0.8, decay=0.98, every=100,
                        capacity=7, keep="frequent")  # fmt: skip


def test_paddles_entries() -> None:
    assert of(entry=dist.CountFilterEntry(5)) == of(COUNT)
    assert of(entry=dist.ProbabilityEntry(0.25)) == of({"by": "probability", "probability": 0.25})
    assert of(entry=dist.ShowClickEntry("show", "click")) == of({"by": "score"})
    with pytest.raises(ConfigError, match="is no entry"):
        of(entry=5)
    with pytest.raises(ConfigError, match="both given"):
        of(COUNT, entry=dist.CountFilterEntry(5))


@pytest.mark.parametrize(("admission", "eviction", "what"), [
    ({"by": "cuont"}, None, "did you mean 'count'"),
    ({"count": 5}, None, 'must be a dict with "by"'),
    ("count", None, 'must be a dict with "by"'),
    ({"by": "count"}, None, "needs count, an int from 1 to 2047"),
    ({"by": "count", "count": 0}, None, "an int from 1 to 2047, got 0"),
    ({"by": "count", "count": 5000}, None, "got 5000"),
    ({"by": "count", "count": True}, None, "got True"),
    ({"by": "count", "cout": 5}, None, "did you mean 'count'"),
    ({"by": "probability", "probability": 1.5}, None, "got 1.5"),
    ({"by": "score", "unseen": "random"}, None, "one of zero, initial"),
    (None, {"by": "age"}, "needs steps"),
    (None, {"by": "age", "steps": -1}, "got -1"),
    (None, {"by": "capacity", "rows": 0}, "got 0"),
    (None, {"by": "capacity", "rows": 10, "keep": "lru"}, "one of recent, frequent"),
    (None, {"by": "score"}, "needs every"),
    (None, [AGE, AGE], "given twice"),
    (None, [SCORE, SCORE], "given twice"),
    (None, [AGE, SCORE], "age and by score are both given"),
    (None, [SCORE, AGE], "age and by score are both given"),
    ({"by": "score", "click": 2.0}, SCORE, "click is 2 in admission and 1 in eviction"),
    (None, "age", "a dict or a list"),
])  # fmt: skip
def test_what_cannot_be_is_refused(admission: Any, eviction: Any, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(admission, eviction)
    assert what in str(caught.value)


def test_what_a_push_carries() -> None:
    assert [of(**given).num_sightings for given in (
        {}, {"eviction": AGE}, {"eviction": {"by": "capacity", "rows": 5}},
        {"admission": COUNT}, {"eviction": {"by": "capacity", "rows": 5, "keep": "frequent"}},
        {"admission": {"by": "score", "nonclick": 1.0}}, {"admission": {"by": "score"}}, {"eviction": SCORE},
    )] == [0, 0, 0, 1, 1, 1, 2, 2]  # fmt: skip


def test_a_servers_part_of_the_capacity() -> None:
    life = of(eviction={"by": "capacity", "rows": 1000})
    assert [life.of_server(n)["capacity"] for n in (1024, 512, 1)] == [1000, 500, 1]
    assert of().of_server(1)["capacity"] == 0


def test_life_travels_with_the_spec() -> None:
    mine = spec(life=of(COUNT, [AGE, {"by": "capacity", "rows": 10}]))
    assert TableSpec.from_json(mine.to_json()) == mine
    plain = spec().to_json()
    assert TableSpec.from_json({k: v for k, v in plain.items() if k != "life"}) == spec()  # of a fleet without row life
    assert "Life(age=9)" in spec(life=of(eviction=AGE)).differs(spec())
    for wrong in ({"age": -1}, {"aeg": 5}, {"admission": "maybe"}, {"below": 1.0}, {"sightings": 5000}, {"every": 0}):
        with pytest.raises(TableError):
            TableSpec.from_json({**plain, "life": wrong})
