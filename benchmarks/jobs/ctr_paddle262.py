"""The rival's side of benchmarks/ctr.py: the same CTR-DNN on Paddle 2.6.2's own parameter server.

One script for server and trainer, by TRAINING_ROLE, as that version wants it: static graph, one of its readers, its async mode,
its lazy Adam. Several trainers share the files out. Its AUC is read after its dense parameters were pulled from the server:
without that call the trainer keeps the ones it began with. Prints RESULT and a JSON object.
"""

import glob
import json
import os
import sys
import time

import numpy as np
import paddle
from paddle.distributed import fleet

data, epochs, batch_size, reader, threads, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), 10

paddle.enable_static()
paddle.seed(1)
fleet.init(fleet.PaddleCloudRoleMaker(is_collective=False))

slots = [paddle.static.data(f"C{i}", [-1, 1], "int64") for i in range(26)]
dense = paddle.static.data("dense", [-1, 13], "float32")
label = paddle.static.data("label", [-1, 1], "int64")
rows_attr = paddle.ParamAttr(name="rows", initializer=paddle.nn.initializer.Uniform(-0.01, 0.01))
rows = [paddle.static.nn.sparse_embedding(s, size=[10_000_000, dim], param_attr=rows_attr) for s in slots]
hidden = paddle.concat([paddle.reshape(r, [-1, dim]) for r in rows] + [dense], axis=1)
for _ in range(3):
    hidden = paddle.static.nn.fc(hidden, 400, activation="relu")
logits = paddle.static.nn.fc(hidden, 2) + paddle.static.nn.fc(dense, 2)
score = paddle.nn.functional.softmax(logits)
loss = paddle.mean(paddle.nn.functional.cross_entropy(logits, label))

strategy = fleet.DistributedStrategy()
strategy.a_sync = True
optimizer = fleet.distributed_optimizer(paddle.optimizer.Adam(1e-3, lazy_mode=True), strategy)
optimizer.minimize(loss)

if fleet.is_server():
    fleet.init_server()
    fleet.run_server()
    sys.exit(0)

executor = paddle.static.Executor(paddle.CPUPlace())
executor.run(paddle.static.default_startup_program())
fleet.init_worker()
main = paddle.static.default_main_program()
evaluation = main.clone(for_test=True)
block = evaluation.global_block()
for at in reversed(range(len(block.ops))):  # the clone keeps the push of gradients, which an evaluation has not
    if block.ops[at].type == "distributed_push_sparse":
        block._remove_op(at)
runtime = fleet.fleet._runtime_handle

files = sorted(glob.glob(f"{data}/multislot/part-*"))[fleet.worker_index() :: fleet.worker_num()]
if reader == "feed":
    # As fast as any DataLoader can be: batches of arrays, decoded before the clock starts, shuffled for each epoch.
    parts = np.load(f"{data}/train.npz")
    mine = {name: parts[name][fleet.worker_index() :: fleet.worker_num()] for name in parts.files}
    mine["label"] = mine["label"].astype("int64").reshape(-1, 1)

    def batches():
        order = np.random.permutation(len(mine["label"]))
        for at in range(0, len(order), batch_size):
            some = order[at : at + batch_size]
            ids = mine["ids"][some]
            columns = {f"C{i}": np.ascontiguousarray(ids[:, i : i + 1]) for i in range(26)}
            yield {"label": mine["label"][some], "dense": mine["dense"][some], **columns}

else:
    dataset = getattr(paddle.distributed, reader)()
    dataset.init(batch_size=batch_size, thread_num=threads, use_var=[label, *slots, dense], pipe_command="cat")
    dataset.set_filelist(files)
    if reader == "InMemoryDataset":
        dataset.load_into_memory()
        dataset.local_shuffle()

seconds = []
for _ in range(epochs):
    fleet.barrier_worker()
    began = time.perf_counter()
    if reader == "feed":
        for feed in batches():
            executor.run(main, feed=feed, fetch_list=[])
    else:
        executor.train_from_dataset(main, dataset, thread=threads, debug=False)
    runtime._worker.client_flush()
    fleet.barrier_worker()
    seconds.append(time.perf_counter() - began)

from paddle.distributed.ps.utils.public import get_the_one_recv_context  # noqa: E402

runtime._pull_all_dense([paddle.static.global_scope()], runtime._send_ctx, get_the_one_recv_context(runtime.context))
test = np.load(f"{data}/test.npz")
scores = []
for at in range(0, len(test["label"]), 4096):
    feed = {f"C{i}": np.ascontiguousarray(test["ids"][at : at + 4096, i : i + 1]) for i in range(26)}
    feed.update(dense=test["dense"][at : at + 4096], label=test["label"][at : at + 4096].astype("int64").reshape(-1, 1))
    scores.append(executor.run(evaluation, feed=feed, fetch_list=[score])[0][:, 1])
if fleet.worker_index() == 0:
    np.save(f"{data}/rival_scores.npy", np.concatenate(scores))
    examples = int(np.load(f"{data}/train_count.npy"))
    print("RESULT " + json.dumps({"seconds": seconds, "examples": examples}), flush=True)
fleet.barrier_worker()
fleet.stop_worker()
os._exit(0)
