"""What Paddle 2.6.2's own parameter server saves: a tiny click-through model trained and saved there. ``make.py`` runs it.

One script for server and trainer, by TRAINING_ROLE. Saves the tables, loads them again, and notes what its server then answers
to a pull: the text has six digits, so these are the weights that the text stands for.
"""

import json
import os
import sys

import numpy as np
import paddle
from paddle.distributed import fleet

out, accessor, rule, dim, threshold = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
modes = [int(mode) for mode in sys.argv[6].split(",")]
width = dim + (2 if accessor == "CtrCommonAccessor" else 0)  # its look-ups begin with show and click

paddle.enable_static()
paddle.seed(1)
fleet.init(fleet.PaddleCloudRoleMaker(is_collective=False))
ids = paddle.static.data("ids", [-1, 1], "int64")
label = paddle.static.data("label", [-1, 1], "int64")
rows = paddle.static.nn.sparse_embedding(ids, size=[1000, width], param_attr=paddle.ParamAttr(name="rows"))
hidden = paddle.static.nn.fc(paddle.reshape(rows, [-1, width])[:, width - dim :], 3, activation="relu")
loss = paddle.mean(paddle.nn.functional.cross_entropy(paddle.static.nn.fc(hidden, 2), label))

sgd = {"name": rule, "adagrad.initial_g2sum": 3.0, "adagrad.initial_range": 0.1, "adagrad.learning_rate": 0.5,
       "adagrad.weight_bounds": [-10.0, 10.0], "adam.initial_range": 0.1, "adam.learning_rate": 0.1,
       "adam.weight_bounds": [-10.0, 10.0], "naive.initial_range": 0.1, "naive.learning_rate": 0.5,
       "naive.weight_bounds": [-10.0, 10.0]}  # fmt: skip
table = {"table_class": "MemorySparseTable", "shard_num": 2, "accessor.accessor_class": accessor,
         "accessor.fea_dim": dim + 2, "accessor.embedx_dim": dim - 1, "accessor.embedx_threshold": threshold,
         **{f"accessor.{part}_sgd_param.{key}": value for part in ("embed", "embedx") for key, value in sgd.items()}}  # fmt: skip
strategy = fleet.DistributedStrategy()
strategy.a_sync = True
strategy.sparse_table_configs = {"rows": {f"table_parameters.rows.{key}": value for key, value in table.items()}}
optimizer = fleet.distributed_optimizer(paddle.optimizer.Adam(0.1, lazy_mode=True), strategy)
optimizer.minimize(loss)

if fleet.is_server():
    fleet.init_server()
    fleet.run_server()
    sys.exit(0)

executor = paddle.static.Executor(paddle.CPUPlace())
executor.run(paddle.static.default_startup_program())
fleet.init_worker()
main = paddle.static.default_main_program()
look_up = main.clone(for_test=True)
block = look_up.global_block()
for at in reversed(range(len(block.ops))):
    if block.ops[at].type == "distributed_push_sparse":
        block._remove_op(at)

runtime = fleet.fleet._runtime_handle
random = np.random.default_rng(3)
# 2**63 + 7 as the int64 that holds its bits: an id of 64 bits, as hashed features have.
known = np.concatenate([np.arange(10), random.integers(10, 1 << 62, 8), [-(2**63) + 7]])
for _ in range(12):
    some = known[random.integers(0, len(known), 9) * random.integers(0, 2, 9)].reshape(-1, 1)
    executor.run(main, feed={"ids": some, "label": (some % 2 == 0).astype("int64")}, fetch_list=[])
    runtime._worker.client_flush()  # else it adds the pushes up, and rows that no push has made read as zeros
for mode in modes:
    fleet.save_persistables(executor, f"{out}/mode-{mode}", main, mode=mode)
if 0 in modes:
    fleet.load_model(f"{out}/mode-0", 0)
pulled = executor.run(look_up, feed={"ids": known.reshape(-1, 1), "label": known.reshape(-1, 1) * 0}, fetch_list=[rows])[0]

from paddle.distributed.ps.utils.public import get_the_one_recv_context  # noqa: E402

dense_of = get_the_one_recv_context(runtime.context)
runtime._pull_all_dense([paddle.static.global_scope()], runtime._send_ctx, dense_of)
dense = {name: np.array(paddle.static.global_scope().find_var(name).get_tensor()) for names in dense_of.values() for name in names}
found = {"ids": [int(id) for id in known.view(np.uint64)], "rows": pulled.reshape(-1, width)[:, width - dim :].tolist(),
         "shows": pulled.reshape(-1, width)[:, : width - dim].tolist(),
         "dense": {name: value.tolist() for name, value in dense.items()}}  # fmt: skip
with open(f"{out}/pulled.json", "w") as file:
    json.dump(found, file)
print("RESULT saved", flush=True)
fleet.stop_worker()
os._exit(0)
