"""The rival's side of benchmarks/readers.py: load a MultiSlot file by InMemoryDataset, then sum what it holds.

Prints RESULT and a JSON object: the CPU-seconds of load_into_memory(), its pipe process included, and the sums.
"""

import json
import resource
import sys

import paddle

paddle.enable_static()
label = paddle.static.data("label", [-1, 1], "int64")
slots = [paddle.static.data(f"C{i}", [-1, 1], "int64") for i in range(26)]
dense = paddle.static.data("dense", [-1, 13], "float32")


def total(name, value, kind):
    """Add up ``value`` over all batches in a variable that outlives them."""
    kept = paddle.static.create_global_var([1], 0, kind, persistable=True, name=name)
    paddle.assign(kept + paddle.cast(value, kind).sum().reshape([1]), kept)
    return kept


sums = {"label": total("sum_label", label, "int64"), "ids": total("sum_ids", paddle.concat(slots, axis=1), "int64"),
        "dense": total("sum_dense", dense, "float64"), "lines": total("sum_lines", paddle.ones_like(label), "int64")}  # fmt: skip
executor = paddle.static.Executor(paddle.CPUPlace())
executor.run(paddle.static.default_startup_program())

dataset = paddle.distributed.InMemoryDataset()
dataset.init(batch_size=512, thread_num=1, use_var=[label, *slots, dense], pipe_command="cat")
dataset.set_filelist([sys.argv[1]])


def cpu_s():
    """Return the CPU-seconds of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


began = cpu_s()
dataset.load_into_memory()
took = cpu_s() - began
executor.train_from_dataset(paddle.static.default_main_program(), dataset, thread=1, debug=False)
found = {name: paddle.static.global_scope().find_var(var.name).get_tensor() for name, var in sums.items()}
print("RESULT " + json.dumps({"cpu_s": took, "sums": {n: float(v.__array__()[0]) for n, v in found.items()}}), flush=True)
