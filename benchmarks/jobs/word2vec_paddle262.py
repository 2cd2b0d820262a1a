"""The rival's side of benchmarks/word2vec.py: skip-gram with negatives on Paddle 2.6.2's own parameter server, in geo mode.

One script for server and trainer, by TRAINING_ROLE: static graph, SGD (the only optimizer of its geo mode), sparse embeddings,
its InMemoryDataset or arrays that are fed. Prints RESULT and a JSON object.
"""

import glob
import json
import os
import sys
import time

import numpy as np
import paddle
from paddle.distributed import fleet

data, batch_size, reader = sys.argv[1], int(sys.argv[2]), sys.argv[3]
threads, k_steps, dim = int(sys.argv[4]), int(sys.argv[5]), 300
about = json.load(open(f"{data}/about.json"))
vocabulary, negatives = about["vocabulary"], about["negatives"]

paddle.enable_static()
paddle.seed(1)
fleet.init(fleet.PaddleCloudRoleMaker(is_collective=False))

center = paddle.static.data("center", [-1, 1], "int64")
context = paddle.static.data("context", [-1, 1 + negatives], "int64")  # the true one first


def table(name, ids, low, high):
    attr = paddle.ParamAttr(name=name, initializer=paddle.nn.initializer.Uniform(low, high))
    return paddle.static.nn.embedding(ids, size=[vocabulary, dim], is_sparse=True, param_attr=attr)


near = table("center_rows", center, -0.5 / dim, 0.5 / dim)  # [b, 1, dim]
far = table("context_rows", context, -1e-9, 1e-9)  # [b, 1 + negatives, dim]
scores = paddle.squeeze(paddle.matmul(near, far, transpose_y=True), axis=1)
truth = paddle.concat([paddle.ones_like(scores[:, :1]), paddle.zeros_like(scores[:, 1:])], axis=1)
loss = paddle.mean(paddle.sum(paddle.nn.functional.binary_cross_entropy_with_logits(scores, truth, reduction="none"), axis=1))

strategy = fleet.DistributedStrategy()
strategy.a_sync = True
strategy.a_sync_configs = {"k_steps": k_steps}
optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(about["rate_of_a_pair"] * batch_size), strategy)
optimizer.minimize(loss)

if fleet.is_server():
    fleet.init_server()
    fleet.run_server()
    sys.exit(0)

executor = paddle.static.Executor(paddle.CPUPlace())
executor.run(paddle.static.default_startup_program())
fleet.init_worker()
main = paddle.static.default_main_program()
rank, world = fleet.worker_index(), fleet.worker_num()

if reader == "feed":
    arrays = np.load(f"{data}/pairs.npz")
    centers, contexts = arrays["center"][rank::world].reshape(-1, 1), np.ascontiguousarray(arrays["context"][rank::world])
else:
    dataset = paddle.distributed.InMemoryDataset()
    dataset.init(batch_size=batch_size, thread_num=threads, use_var=[center, context], pipe_command="cat")
    dataset.set_filelist(sorted(glob.glob(f"{data}/multislot/part-*"))[rank::world])
    dataset.load_into_memory()

fleet.barrier_worker()
began = time.perf_counter()
if reader == "feed":
    for at in range(0, len(centers), batch_size):
        executor.run(main, feed={"center": centers[at : at + batch_size], "context": contexts[at : at + batch_size]}, fetch_list=[])
else:
    executor.train_from_dataset(main, dataset, thread=threads, debug=False)
fleet.barrier_worker()
seconds = time.perf_counter() - began
if rank == 0:
    scope = paddle.static.global_scope()
    near_rows = np.array(scope.find_var("center_rows").get_tensor())[: about["checked"]]
    far_rows = np.array(scope.find_var("context_rows").get_tensor())[: about["checked"]]
    np.savez(f"{data}/rival_rows.npz", center=near_rows, context=far_rows)
    print("RESULT " + json.dumps({"seconds": seconds}), flush=True)
fleet.barrier_worker()
fleet.stop_worker()
os._exit(0)
