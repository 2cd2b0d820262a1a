"""libffm's text: ``label field:feature:value`` between spaces.

    1 0:3:0.5 1:17:1 2:99:1

Source: Juan, Zhuang, Chin, Lin, "Field-aware factorization machines for CTR prediction", RecSys 2016; the format is that of
their program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fleet.data.block import I64, Block, Columns, Ragged
from fleet.data.digits import Bool, Text, floats, padded, unsigned
from fleet.data.format import TextFormat, finish
from fleet.data.slots import tokens
from fleet.errors import ConfigError

_REASONS = (
    "the line is empty, or a word behind the label is not field:feature:value",
    "the label, a field, a feature or a value is not a number of its kind",
    "a field stands twice, or is not below num_fields",
)
_COLON = 58


@dataclass(frozen=True)
class Libffm(TextFormat):
    """Read libffm text.

    Args:
        num_fields: None gives ragged columns: ``label`` float32[n], ``fields`` and ``ids`` (int64 values, lengths), ``values``
            (float32 values, lengths). A number gives ``label`` float32[n], ``ids`` int64[n, num_fields] and ``values``
            float32[n, num_fields], a field that a line leaves out with id 0 and value 0.

    The label is 1 where the text's is above 0, else 0. Features are below 2**63.

    Raises:
        ConfigError: num_fields below 1.

    Example:
        >>> Libffm(3).parse(b"1 0:3:0.5 2:99:1\\n").columns["ids"].tolist()
        [[3, 0, 99]]
    """

    num_fields: int | None = None
    form: ClassVar[str] = "libffm text: label field:feature:value ..., between spaces"

    def __post_init__(self) -> None:
        if self.num_fields is not None and (type(self.num_fields) is not int or self.num_fields < 1):
            fix = "leave it out for lines of any number of fields"
            raise ConfigError(f"num_fields must be an int >= 1, got {self.num_fields!r}", at="Libffm", fix=fix)

    def parse_piece(self, text: bytes) -> Block:
        """Parse a few thousand whole lines."""
        found = padded(text)
        starts, ends, first, last, line_ends = tokens(found)
        line = np.repeat(np.arange(len(first)), last - first)
        is_label = np.zeros(len(starts), np.bool_)
        is_label[first[last > first]] = True
        left, right, ok = _two_colons(found, starts, ends, is_label)
        why = np.where(last > first, 0, 1).astype(np.int8)
        why[line[~ok]] = 1
        good = why == 0
        use = good[line] & ~is_label
        starts_of, ends_of, left, right, line_of = starts[use], ends[use], left[use], right[use], line[use]
        labels, labels_ok = floats(found, starts[first[good]], ends[first[good]])
        fields, fields_ok = unsigned(found, starts_of, left)
        features, features_ok = unsigned(found, left + 1, right)
        values, values_ok = floats(found, right + 1, ends_of)
        row_of = (np.cumsum(good) - 1)[line_of]
        rows_ok = labels_ok.copy()
        whole = fields_ok & features_ok & values_ok & (features < np.uint64(1 << 63)) & (fields < np.uint64(1 << 31))
        rows_ok[row_of[~whole]] = False
        label = (labels > 0).astype(np.float32)
        lengths = np.bincount(row_of, minlength=len(label))
        ids, of_field = features.view(np.int64), fields.view(np.int64)
        if self.num_fields is None:
            columns: Columns = {"label": label, "fields": Ragged(of_field, lengths), "ids": Ragged(ids, lengths),
                                "values": Ragged(values, lengths)}  # fmt: skip
            fits = np.ones(len(label), np.bool_)
        else:
            columns, fits = _matrix(label, row_of, of_field, ids, values, self.num_fields)
        why[good] = np.select([~rows_ok, ~fits], [-2, -3], 0)
        return finish(columns, why, _REASONS, text, line_ends)


def _matrix(label: Any, row_of: I64, fields: I64, ids: I64, values: Any, num_fields: int) -> tuple[Columns, Bool]:
    num_rows = len(label)
    inside = (fields >= 0) & (fields < num_fields)
    fits = np.ones(num_rows, np.bool_)
    fits[row_of[~inside]] = False
    place = (row_of * num_fields + fields)[inside]
    times = np.bincount(place, minlength=num_rows * num_fields).reshape(num_rows, num_fields)
    fits &= (times <= 1).all(axis=1)
    all_ids, all_values = np.zeros(num_rows * num_fields, np.int64), np.zeros(num_rows * num_fields, np.float32)
    all_ids[place], all_values[place] = ids[inside], values[inside]
    shape = (num_rows, num_fields)
    return {"label": label, "ids": all_ids.reshape(shape), "values": all_values.reshape(shape)}, fits


def _two_colons(text: Text, starts: I64, ends: I64, is_label: Bool) -> tuple[I64, I64, Bool]:
    """Return where the two colons of each token stand, and which tokens have what they should: two, a label none."""
    colons = np.flatnonzero(text.chars == _COLON)
    left, right = starts.copy(), starts.copy()
    if len(colons) == 2 * (len(starts) - np.count_nonzero(is_label)):
        pairs = colons.reshape(-1, 2)
        first, second = starts[~is_label], ends[~is_label]
        if ((pairs[:, 0] > first) & (pairs[:, 1] < second)).all():
            left[~is_label], right[~is_label] = pairs[:, 0], pairs[:, 1]
            return left, right, np.ones(len(starts), np.bool_)
    begin = np.searchsorted(colons, starts)
    num_colons = np.searchsorted(colons, ends) - begin
    ok = num_colons == np.where(is_label, 0, 2)
    triples = ok & ~is_label
    left[triples], right[triples] = colons[begin[triples]], colons[begin[triples] + 1]
    return left, right, ok
