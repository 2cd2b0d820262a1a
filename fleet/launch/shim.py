"""What runs first in every process of a run: ``python shim.py LAUNCHER_PID TUNING (-m MODULE | SCRIPT) ARGS...``

It ties the process to the launcher's life, arranges that a failure is written down, applies the tuning, and then becomes the
script: ``__main__``, ``sys.argv`` and ``sys.path`` are as ``python SCRIPT ARGS`` makes them, so that pickled classes of the
script and ``multiprocessing`` children find their ``__main__``.

It is run by path and imports nothing of fleet: the script shall find an untouched interpreter. Before ``sys.path`` is put right,
only built-in modules may be imported here: the first entry is still the directory of this file.
"""

from __future__ import annotations

import os
import sys
import time
from types import CodeType, ModuleType, TracebackType

PR_SET_PDEATHSIG, SIGKILL = 1, 9
EX_PREEMPTED = 75
SWITCH_INTERVAL_S = 5e-5  # measured in docs/tuning.md
_MXCSR_OFFSET, _FTZ_DAZ = 28, 0x8040  # in glibc's fenv_t of x86-64; flush-to-zero is bit 15, denormals-are-zero bit 6


def die_with(launcher_pid: int) -> None:
    """Have the kernel end this process when the launcher ends, and end now if it is gone already."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != launcher_pid:  # it died before prctl: the signal will never come
        os._exit(128 + SIGKILL)


def tune(names: list[str]) -> None:
    """Apply the in-process tunings, which docs/tuning.md explains; threads started later inherit both."""
    if "switch interval" in names:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
    if "flush-to-zero" in names:
        import ctypes

        libm, state = ctypes.CDLL("libm.so.6"), (ctypes.c_uint32 * 8)()
        libm.fegetenv(state)
        state[_MXCSR_OFFSET // 4] |= _FTZ_DAZ
        libm.fesetenv(state)


class FailureRecord:
    """Writes how this process failed to ``DIR/trainer-0.failure.json``, for the launcher's report."""

    def __init__(self, own_pid: int) -> None:
        self.own_pid = own_pid
        index = os.environ.get("FLEET_SERVER_INDEX" if os.environ.get("FLEET_ROLE") == "server" else "FLEET_RANK", "0")
        self.path = os.path.join(
            os.environ.get("FLEET_LOG_DIR", "."), f"{os.environ.get('FLEET_ROLE', 'trainer')}-{index}.failure.json"
        )

    def write(self, error: BaseException, thread: str = "") -> None:
        """Write the record; a thread's failure never replaces the main one's. Forked children write none."""
        time_ns = time.monotonic_ns()
        if os.getpid() != self.own_pid or (thread and os.path.exists(self.path)):
            return
        import json
        import traceback

        first = own_frames(error.__traceback__)
        record = {
            "time_ns": time_ns,
            "type": type(error).__name__,
            "bases": [c.__name__ for c in type(error).__mro__],
            "message": str(error.code) if isinstance(error, SystemExit) else str(error),
            "thread": thread,
            "status": exit_status(error),
            "frames": [[f.filename, f.lineno, f.line or "", f.name] for f in traceback.extract_tb(first)],
            "traceback": "".join(traceback.format_exception(type(error), error, first)),
        }
        if isinstance(error, SyntaxError) and error.filename:
            record["frames"] += [[error.filename, error.lineno or 0, (error.text or "").strip(), ""]]  # type: ignore[operator]
        try:
            with open(self.path + ".tmp", "w", encoding="utf-8", errors="backslashreplace") as file:
                json.dump(record, file)
            os.replace(self.path + ".tmp", self.path)
        except OSError as problem:  # a full disk must not hide the failure itself, which stderr still gets
            print(f"fleet: WARNING: cannot write {self.path}: {problem}", file=sys.stderr)


def own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Drop the frames of this file, and of runpy and importlib below them, from the top of a traceback."""
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == __file__ or trace.tb_frame.f_code.co_filename.startswith("<frozen ")
    ):
        trace = trace.tb_next
    return trace


def exit_status(error: BaseException) -> int:
    """Return the status that Python will exit with when ``error`` is not caught."""
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def install_hooks(record: FailureRecord) -> None:
    """Record uncaught exceptions of threads; print those of the main thread without this file's frames."""
    import threading

    before = threading.excepthook

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            record.write(args.exc_value, args.thread.name if args.thread else "a thread")
        before(args)

    def of_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        error.__traceback__ = own_frames(trace)  # the default hook prints what the exception holds
        sys.__excepthook__(kind, error, error.__traceback__)

    threading.excepthook = of_thread
    sys.excepthook = of_main


def load_script(path: str) -> tuple[CodeType, dict[str, object]]:
    """Return the code of a script file, and what its ``__main__`` module holds beside it."""
    import io
    from importlib.machinery import SourceFileLoader

    path = os.path.abspath(path)  # as Python has it in __file__ and tracebacks; sys.argv[0] stays as given
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    return code, {"__file__": path, "__cached__": None, "__loader__": SourceFileLoader("__main__", path), "__package__": None}


def load_module(name: str, folder: str | None = None) -> tuple[CodeType, dict[str, object]]:
    """Return the code of a module as ``python -m`` runs it (``folder``: only from there), and what its ``__main__`` holds."""
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    spec = PathFinder.find_spec(name, [folder]) if folder else find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = find_spec(name + ".__main__")
    code = spec.loader.get_code(spec.name) if spec is not None and spec.loader is not None else None  # type: ignore[attr-defined]
    if spec is None or code is None:
        raise ModuleNotFoundError(f"no module named {name!r} that can be run" + (f" in {folder}" if folder else ""), name=name)
    held: dict[str, object] = {
        "__file__": spec.origin,
        "__cached__": spec.cached,
        "__loader__": spec.loader,
        "__package__": spec.parent,
    }
    held["__spec__"] = spec
    return code, held


def is_archive(target: str) -> bool:
    """Say whether Python runs ``target`` by the ``__main__.py`` in it."""
    return os.path.isdir(target) or target.endswith((".zip", ".pyz"))


def set_path(target: str, is_module: bool, root: str) -> None:
    """Make ``sys.path`` what ``python target`` makes it, and let fleet itself be found last."""
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = os.getcwd() if is_module else target if is_archive(target) else os.path.dirname(os.path.realpath(target))
    if root not in sys.path:
        sys.path.append(root)


def main() -> None:
    """Become the script."""
    launcher_pid, tuning, *rest = sys.argv[1:]
    is_module = rest[0] == "-m"
    target, *args = rest[1:] if is_module else rest
    set_path(target, is_module, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    die_with(int(launcher_pid))
    import faulthandler

    faulthandler.enable()
    record = FailureRecord(os.getpid())
    install_hooks(record)
    tune(tuning.split(","))
    sys.argv[:] = [target, *args]
    module = ModuleType("__main__")
    own, sys.modules["__main__"] = sys.modules["__main__"], module  # ``own`` keeps this file's globals alive
    try:
        if is_module:
            code, held = load_module(target)
            sys.argv[0] = str(held["__file__"])
        elif is_archive(target):
            code, held = load_module("__main__", target)
        else:
            code, held = load_script(target)
        module.__dict__.update(held, __builtins__=__builtins__)
        exec(code, module.__dict__)
    except BaseException as error:
        if exit_status(error) not in (0, EX_PREEMPTED) and not isinstance(error, KeyboardInterrupt):
            record.write(error)
        raise
    finally:
        del own


if __name__ == "__main__":
    main()
