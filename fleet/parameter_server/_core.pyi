"""The C++ core: tables, batches of ids, placement.

Every function releases the GIL while it works. Arrays are taken exactly as annotated, C-contiguous: another dtype or a
non-array raises TypeError, another shape or layout ValueError; nothing is converted. MemoryError: the system has no memory.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

class CoreInfo(TypedDict):
    simd: str  # level in force: "portable", "avx2" or "avx512"
    simd_levels: list[str]  # levels that this CPU has
    huge_pages: bool  # whether the system grants huge pages to those who ask
    num_shards: int  # logical shards of every table: 1024
    sources: str  # fingerprint of what the core was built from

class SavedFile(TypedDict):
    path: str
    rows: int
    bytes: int  # size of the file
    checksums: dict[str, int]  # tensor -> zlib.crc32 of its bytes
    holds: Literal["rows", "removed", "waiting"]

class LifeCounts(TypedDict):
    waiting: int  # ids without a row that are counted now
    admitted: int  # ids that earned a row
    evicted: int
    dropped: int  # gradients of ids without a row

def as_array(address: int, count: int, dtype: Literal["float32", "int64", "uint64", "uint32"]) -> NDArray[np.generic]:
    """View ``count`` elements of foreign memory; the view owns nothing and must not outlive it.

    Raises:
        ValueError: a null or misaligned address, a negative count, another dtype.
    """

def shard_of(ids: NDArray[np.uint64], salt: int) -> NDArray[np.uint16]:
    """Return the logical shard (0 to 1023) of each id: the top 10 bits of mix64(id ^ salt)."""

class Unique:
    """Removes repeats from batches of ids; keeps its memory between calls. One per thread."""

    def __init__(self, salt: int) -> None: ...
    def unique(
        self, ids: NDArray[np.uint64], server_of_shard: NDArray[np.uint16], num_servers: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]:
        """Return ``(keys uint64[m], inverse uint32[n], counts int64[num_servers])`` with ``keys[inverse] == ids``.

        Keys come grouped by server, within a server by lock stripe, within a stripe by first appearance.
        ``server_of_shard`` is ``uint16[1024]``.
        """

def unique_all(
    batches: Sequence[tuple[Unique, NDArray[np.uint64]]], server_of_shard: NDArray[np.uint16], num_servers: int
) -> list[tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]]:
    """Do ``unique.unique(ids, ...)`` for the batches of several tables in one call."""

def expand(rows: NDArray[np.float32], inverse: NDArray[np.uint32], out: NDArray[np.float32]) -> None:
    """Set ``out[i] = rows[inverse[i]]``: ``float32[m, dim]`` to ``float32[n, dim]``. Raises ValueError if inverse names no row."""

def merge(grads: NDArray[np.float32], inverse: NDArray[np.uint32], scale: float, out: NDArray[np.float32]) -> int:
    """Set ``out[m, dim]`` to ``scale`` times the sum of ``grads[n, dim]`` by ``inverse[n]``, in order of appearance.

    Returns how many values of the result are not finite. Raises ValueError if inverse names no row of out.
    """

def pool(
    rows: NDArray[np.float32],
    inverse: NDArray[np.uint32],
    lengths: NDArray[np.int64] | None,
    weights: NDArray[np.float32] | None,
    pooling: str,
    out: NDArray[np.float32],
) -> None:
    """Set ``out[num_bags, dim]`` to the pooled rows of bags of ids: ``rows[m, dim]``, ``inverse[n]``, ``lengths[num_bags]``.

    ``sum`` of weight times row in the order of the ids; ``mean`` divides it by the sum of weights, ``sqrtn`` by the root of the
    sum of squared weights. Zeros if a bag is empty or its divisor is 0. Without ``lengths`` every id is a bag of its own.

    Raises:
        ValueError: a length is negative, the lengths do not add up, inverse names no row, or pooling is another word.
    """

def unpool(
    grads: NDArray[np.float32],
    inverse: NDArray[np.uint32],
    lengths: NDArray[np.int64] | None,
    weights: NDArray[np.float32] | None,
    pooling: str,
    out: NDArray[np.float32],
) -> None:
    """Add the gradient ``grads[num_bags, dim]`` of pooled rows to the rows' own, ``out[m, dim]``, in the order of the ids.

    Raises:
        ValueError: as :func:`pool`.
    """

def weight_gradients(
    rows: NDArray[np.float32],
    grads: NDArray[np.float32],
    inverse: NDArray[np.uint32],
    lengths: NDArray[np.int64] | None,
    weights: NDArray[np.float32],
    pooling: str,
) -> NDArray[np.float32]:
    """Return the gradient ``float32[n]`` of the weights of :func:`pool`, given that of its result.

    Raises:
        ValueError: as :func:`pool`.
    """

def drop_padding(
    ids: NDArray[np.uint64], padding: int, lengths: NDArray[np.int64] | None
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Return ``(ids uint64[k], places int64[k], lengths int64[num_bags])`` without the padding; None if there is none.

    ``places`` are those of the ids that stay. Without ``lengths`` every id is a bag of its own, of length 0 or 1 afterwards.

    Raises:
        ValueError: a length is negative, or they do not add up.
    """

def count_nonfinite(values: NDArray[np.float32]) -> int:
    """Return how many of ``values[n]`` are NaN or infinite."""

def merge_pushes(
    pushes: Sequence[tuple[NDArray[np.uint64], NDArray[np.float32]]],
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Sum several trainers' pushes ``(keys uint64[n], grads float32[n, dim])`` in the order of the list.

    Keys come in order of first appearance. The result is the same bits for the same list.
    """

def frozen_read(
    ids: NDArray[np.uint64],
    out: NDArray[np.float32],
    index: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    rows: NDArray[np.float32] | NDArray[np.uint16],
    dtype: Literal["float32", "float16", "bfloat16"],
    salt: int,
) -> NDArray[np.int64]:
    """Write the rows of ``ids[n]`` to ``out[n, dim]`` from a table of ``docs/export.md``; return the positions without a row.

    ``rows`` are ``float32[m, dim]`` or, as ``uint16[m, dim]``, the bits of 16-bit floats. Positions without a row are not written.

    Raises:
        ValueError: shapes that do not fit, or an index that points outside the table.
    """

def flush_denormals() -> bool:
    """Read and write denormals as zero in the calling thread; False where the CPU has no such switch."""

def core_info() -> CoreInfo:
    """Return what was chosen at run time."""

def set_simd(level: str) -> None:
    """Choose ``portable``, ``avx2``, ``avx512`` or ``auto`` for this process; all give the same bits.

    Raises:
        ValueError: this CPU has no such level.
    """

def narrow(values: NDArray[np.float32], out: NDArray[np.uint16], dtype: str) -> int:
    """Write ``values[n]`` to ``out[n]`` as the bits of ``bfloat16`` or ``float16``, rounded to nearest even.

    Returns how many results are not finite: what is too large becomes infinite.
    """

def widen(values: NDArray[np.uint16], out: NDArray[np.float32], dtype: str) -> None:
    """Write the numbers whose bits are ``values[n]`` to ``out[n]``."""

def row_optimizers() -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return every row optimizer's constants: name -> (default, lowest, first that is too large)."""

class Table:
    """A map from uint64 key to a row of ``dim`` weights with optimizer state. Any id is a key. Thread-safe.

    Args:
        dim: floats of a row.
        optimizer: one of :func:`row_optimizers`; ``docs/row_optimizer.md`` says what each computes.
        hyper: its constants, and ``l2_decay``, ``clip_min``, ``clip_max``; unknown names raise ValueError.
        initializer: ``uniform`` with ``(low, high)``, ``normal`` with ``(mean, std)``, ``constant`` with ``(value, 0)``.
            A row's values come from (seed, salt, id, column) alone.
        seed: of the initial values.
        salt: of the hash that places keys; the same on all servers and clients of a table.
        stripes: number of locks: 1, 2, 4, 8 or 16.
        life: what ``Life.of_server`` gives: when an id earns its row and loses it; without it every id has one for ever.
        weights: how they are stored: ``float32``, ``bfloat16`` or ``float16``; pulls and pushes are float32 always.
        state: how row state is stored: ``float32`` or ``bfloat16``.

    Raises:
        ValueError: a value out of range, or a name that is not known.
    """

    def __init__(
        self,
        *,
        dim: int,
        optimizer: str,
        hyper: dict[str, float],
        initializer: str,
        init_args: tuple[float, float],
        seed: int,
        salt: int,
        stripes: int = 16,
        life: dict[str, float] = ...,
        weights: str = "float32",
        state: str = "float32",
    ) -> None: ...
    def pull(self, ids: NDArray[np.uint64], out: NDArray[np.float32], create: bool) -> int:
        """Copy the weights of ``ids[n]`` to ``out[n, dim]``; return how many rows were created.

        With ``create=False``, and in a table with row life always, nothing is created, and ids without a row read as their
        initial value, or as zeros if the table's life says so. Safe to retry.
        """

    def push(
        self,
        ids: NDArray[np.uint64],
        grads: NDArray[np.float32],
        lr: float,
        step: int,
        shows: NDArray[np.uint32] | None = None,
        clicks: NDArray[np.uint32] | None = None,
    ) -> int:
        """Apply ``grads[n, dim]`` to the rows of ``ids[n]``; return how many gradient values are not finite.

        If any is not finite, nothing is changed. Missing rows are created first. Repeated ids are applied in order.
        ``step`` counts from 1 and sets Adam's bias correction; like Paddle's sparse kernel on a CPU, step t uses
        beta^(t + 1), multiplied up in float32 (core/beta_powers.h). A retry counts twice, also after MemoryError,
        which may leave some ids applied.

        With row life ``shows[n]`` says how often each id was seen and ``clicks[n]`` how often of these clicked (None: once, never):
        ids earn rows, rows that have expired go, and the gradient of an id that has no row yet is dropped.
        """

    def assign(
        self, ids: NDArray[np.uint64], weights: NDArray[np.float32], state: NDArray[np.float32] | None = None
    ) -> None:
        """Set the weights of ``ids[n]`` to ``weights[n, dim]`` and their state to ``state[n, state_dim]``, or its initial value.

        Safe to retry.
        """

    def read(self, ids: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
        """Return ``(found bool[n], weights float32[n, dim], state float32[n, state_dim])``; missing ids read as initial values."""

    def keys(self) -> NDArray[np.uint64]:
        """Return every key, grouped by stripe, in order of creation within one."""

    def shrink(self, below: float) -> int:
        """Evict at once whatever has expired, and rows with a score below ``below``; return how many rows went."""

    def forget_evicted(self, epoch: int) -> None:
        """Say that no delta will continue a cut before ``epoch`` ended: keys evicted until then need not be known."""

    def life_counts(self) -> LifeCounts:
        """Return what became of ids and rows since the table was made."""

    def room_to_pull(self, ids: NDArray[np.uint64]) -> None:
        """Ask for the rows that a pull of ``ids[n]`` would create. Raises MemoryError if they would exceed the memory limit."""

    def set_evicts_when_full(self, evicts: bool) -> None:
        """Say whether the memory limit evicts rows (needs row life) or refuses new ones."""

    @property
    def step(self) -> int:
        """The step of the last push, by which rows age; set when a snapshot is loaded."""

    @step.setter
    def step(self, value: int) -> None: ...
    @property
    def size(self) -> int:
        """Number of rows."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory behind rows and index."""

    @property
    def num_restarts(self) -> int:
        """How often the epochs of rows began anew: what a Cut knew before that is lost."""

    @property
    def dim(self) -> int: ...
    @property
    def state_dim(self) -> int:
        """Floats of optimizer state beside a row: 0, 1, dim or 2 dim."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row with key and state."""

    @property
    def optimizer(self) -> str: ...

class Copies(Table):
    """A trainer's copies of rows: each row with its state and its base, what the servers held of it when it was fetched.

    A row is fresh from :meth:`take` until :meth:`renew`. ``Table``'s arguments; weights are float32, and rows live for ever.
    """

    def __init__(
        self,
        *,
        dim: int,
        optimizer: str,
        hyper: dict[str, float],
        initializer: str,
        init_args: tuple[float, float],
        seed: int,
        salt: int,
        state: str = "float32",
    ) -> None: ...
    def pull_fresh(self, ids: NDArray[np.uint64], out: NDArray[np.float32]) -> NDArray[np.uint32]:
        """Copy the weights of those of ``ids[n]`` that are fresh to ``out[n, dim]``; return the places of the others, ascending."""

    def push_fresh(
        self, ids: NDArray[np.uint64], grads: NDArray[np.float32], lr: float, step: int
    ) -> tuple[int, NDArray[np.uint32]]:
        """Push to those of ``ids[n]`` that are fresh; return how many gradient values are not finite, and the places of the others.

        If any is not finite, nothing is changed, and no places are returned.
        """

    def take(self, ids: NDArray[np.uint64], weights: NDArray[np.float32], owed: bool) -> None:
        """Take rows of unique ``ids[n]`` as the servers hold them, ``weights[n, dim]``: they are fresh. Their state stays.

        ``owed``: what the servers do not have of a row is added to it, and to ``weights``.
        """

    def moves(self, ids: NDArray[np.uint64], parts: float, follow: bool, out: NDArray[np.float32]) -> None:
        """Write to ``out``, ``float32[n, dim]``, by how much rows lie below their base, divided by ``parts``.

        ``follow`` then adds the part to the base, as a server does that is sent it.
        """

    def settle(self, ids: NDArray[np.uint64], sent: NDArray[np.float32] | None = None) -> None:
        """Add ``sent[n, dim]`` to the base of rows; None: let there be nothing that the servers do not have of them."""

    def renew(self) -> None:
        """Let no row be fresh any more."""

class Cut:
    """All rows of some tables at one moment, to be written while pulls and pushes go on. Ends when it is dropped.

    Args:
        tables: no other cut of them is in force.
        after: of each table, rows that changed in later epochs, and the keys that lost theirs; 0 takes all.

    Raises:
        ValueError: a cut of one of the tables is in force.
    """

    def __init__(self, tables: Sequence[Table], after: Sequence[int]) -> None: ...
    def write(self, prefixes: Sequence[str], shard_low: int, shard_high: int, file_bytes: int = ...) -> list[list[SavedFile]]:
        """Write the rows of shards ``[shard_low, shard_high)`` to ``PREFIX-00000.safetensors`` and so on; call it once.

        Keys that lost their rows come in ``PREFIX-removed.safetensors``, ids that wait for one in ``PREFIX-waiting.safetensors``.

        A file holds ``file_bytes`` of rows at most (64 MB), and two of them are in memory at a time.
        Tensors: ``keys`` U64[n], ``weights`` F32[n, dim], ``state`` F32[n, state_dim] (absent if 0). Files are fsynced, their
        directories are not. Pushes wait when copies of rows that change meanwhile fill the side memory.

        Raises:
            OSError: with errno and path. Finished files stay. ValueError: a weight or state is not finite, cancel() was called, or
                the disk took nothing for too long.
        """

    def cancel(self) -> None:
        """Let write() in another thread fail soon."""

    @property
    def after(self) -> list[int]:
        """As given, or 0 where it is not known any more which keys lost their rows: all rows are in the cut."""

    @property
    def until(self) -> list[int]:
        """Of each table, the last epoch that is in the cut: the next delta's ``after``."""

class Load:
    """Fills a fresh table from files, the newest first. If a call fails, throw the table away.

    Args:
        keep: ``bool[1024]``: shards whose rows are taken.
        keep_state: False takes files of another row optimizer too; row state begins anew.
    """

    def __init__(self, table: Table, keep: NDArray[np.bool_], keep_state: bool = True) -> None: ...
    def expect(self, num_rows: int) -> None:
        """Make room in the index for about so many rows at once."""

    def next_snapshot(self) -> None:
        """Say that the files that follow are of one snapshot, older than what came before: a key twice in it is damage."""

    def rows(self, path: str, checksums: dict[str, int], shards: tuple[int, int] = ..., count: int = -1) -> int:
        """Check a file whole, then make its rows that are neither there nor removed; return how many.

        Args:
            shards: in which all its keys lie.
            count: of its rows; -1: any.

        Raises:
            ValueError: the file is damaged, foreign, or does not fit this table: says what and where. OSError: with errno and path.
        """

    def drop_shards(self, low: int, high: int) -> None:
        """Take no more rows of shards ``[low, high)``."""

    def removed(self, path: str, checksums: dict[str, int], shards: tuple[int, int] = ..., count: int = -1) -> None:
        """Take a file of removed keys (one tensor, ``keys`` U64[n]): older files' rows of these are no more."""

    def waiting(self, path: str, checksums: dict[str, int], shards: tuple[int, int] = ..., count: int = -1) -> None:
        """Take a file of ids that wait for a row (``hashes`` U64[n], ``counts`` U16[n], ``generations`` U8[n])."""

def set_side_memory(bytes: int = ..., patience_s: float = ...) -> None:
    """Bound the copies of rows that change while they are saved, of this process; and how long a push waits for the disk."""

def set_memory_limit(bytes: int) -> None:
    """Bound the resident memory of this process, asked before rows are made; 0: no bound."""

def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if the system does not say."""
