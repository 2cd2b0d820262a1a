"""The rival's side of benchmarks/memory.py: Paddle 2.6.2's server made to hold rows 0 to N - 1 of one sparse table.

One script for server and trainer, by TRAINING_ROLE; both run in one directory. The trainer prints RESULT and how much the
server's resident memory grew while the rows were made.
"""

import os
import re
import sys
import time

import numpy as np
import paddle
from paddle.distributed import fleet

rows, dim, batch = int(sys.argv[1]), int(sys.argv[2]), 50_000


def resident_bytes():
    with open(f"/proc/{open('server_pid').read()}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024


paddle.enable_static()
fleet.init(fleet.PaddleCloudRoleMaker(is_collective=False))
ids = paddle.static.data("ids", [-1, 1], "int64")
embedded = paddle.static.nn.embedding(ids, size=[rows, dim], is_sparse=True, param_attr=paddle.ParamAttr(name="rows"))
loss = paddle.mean(paddle.static.nn.fc(paddle.reshape(embedded, [-1, dim]), 1))
strategy = fleet.DistributedStrategy()
strategy.a_sync = True
optimizer = fleet.distributed_optimizer(paddle.optimizer.Adam(1e-3, lazy_mode=True), strategy)
optimizer.minimize(loss)
if fleet.is_server():
    with open("server_pid", "w") as file:
        file.write(str(os.getpid()))
    fleet.init_server()
    fleet.run_server()
    sys.exit(0)

executor = paddle.static.Executor(paddle.CPUPlace())
executor.run(paddle.static.default_startup_program())
fleet.init_worker()
main = paddle.static.default_main_program()
executor.run(main, feed={"ids": np.arange(1000, dtype=np.int64).reshape(-1, 1)}, fetch_list=[loss])  # its threads and buffers
before = resident_bytes()
for start in range(1000, rows, batch):
    part = np.arange(start, min(rows, start + batch), dtype=np.int64).reshape(-1, 1)
    executor.run(main, feed={"ids": part}, fetch_list=[loss])
fleet.barrier_worker()
time.sleep(1.0)  # pushes are under way
print(f"RESULT {(resident_bytes() - before) * rows // (rows - 1000)} bytes", flush=True)
fleet.stop_worker()
os._exit(0)
