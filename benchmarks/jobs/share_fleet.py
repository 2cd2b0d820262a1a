"""Our job of benchmarks/share.py: CTR-DNN under fleet.launch, with clocks around all that is the parameter server's.

Prints RESULT and a JSON object: CPU-seconds of this job's steps, by who spent them. Trainer 0 prints; the others send it theirs.
"""

import functools
import json
import os
import socket
import struct
import sys
import time

import numpy as np
import paddle
from paddle import nn

import fleet
from fleet import training
from fleet.data import ArrayLoader, criteo
from fleet.parameter_server.pooling import Result

data, samples, batch_size, consistency, warm, alone = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4], *map(int, sys.argv[5:7])
dim = 10
if alone:  # plain Paddle, for the answer
    ids_below = 2_000_003
    fleet.init()
else:
    fleet.init(strategy=fleet.DistributedStrategy(batch="per_trainer", parameter_server={"consistency": consistency}))


class CtrDnn(nn.Layer):
    def __init__(self):
        super().__init__()
        small = nn.initializer.Uniform(-0.01, 0.01)
        if alone:
            self.embedding = nn.Embedding(ids_below, dim, sparse=True, weight_attr=paddle.ParamAttr(initializer=small))
        else:
            self.embedding = fleet.parameter_server.Embedding(dim, initializer=small)
        widths = [26 * dim + 13, 400, 400, 400]
        layers = [layer for i, o in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.deep, self.wide = nn.Sequential(*layers, nn.Linear(400, 2)), nn.Linear(13, 2)

    def forward(self, ids, dense):
        rows = self.embedding(ids).reshape([len(ids), -1])
        return self.deep(paddle.concat([rows, dense], axis=1)) + self.wide(dense)


class Clock:
    """CPU time of the main thread inside the calls that it is put around; calls inside calls count once."""

    def __init__(self):
        self.seconds, self.depth = {}, 0

    def around(self, owner, name, word):
        call = getattr(owner, name)

        @functools.wraps(call)
        def timed(*args, **kwargs):
            self.depth += 1
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds[word] = self.seconds.get(word, 0.0) + time.thread_time() - began

        setattr(owner, name, timed)


def of_process(pid):
    """User and system CPU-seconds of a process."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def arrays(part):
    found = criteo.open_pack(f"{data}/{part}.pack")
    return {"ids": found["ids"][:], "dense": found["dense"][:], "label": found["label"][:].astype("int64")}


train_set, test_set = arrays("train"), arrays("test")
paddle.seed(1)
model = CtrDnn() if alone else fleet.distributed_model(CtrDnn())
optimizer = paddle.optimizer.Adam(1e-3, parameters=model.parameters(), lazy_mode=True, use_multi_tensor=not alone)
loader = ArrayLoader(train_set, batch_size, shuffle=True, drop_last=True)
clock = Clock()
if not alone:
    optimizer = fleet.distributed_optimizer(optimizer)
    session = training.job().session
    for owner, name, word in ((type(model.embedding), "look", "announce"), (type(session), "announce", "announce"),
                              (type(model.embedding), "forward", "forward"), (Result, "back", "backward"),
                              (type(session), "push", "push"), (type(session), "clear", "push")):  # fmt: skip
        clock.around(owner, name, word)
    loader = fleet.distributed_loader(loader, ids={"ids": model.embedding})
    credentials = [link._line._line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12) for link in session.client._links]
    servers = [struct.unpack("iII", c)[0] for c in credentials]
    of_client = time.pthread_getcpuclockid(session.client._thread.ident)


def readings():
    """What every clock shows now."""
    mine = {"trainers": time.process_time(), "wall": time.perf_counter()}
    if alone:
        return mine
    return {**mine, "client thread": time.clock_gettime(of_client), "servers": sum(map(of_process, servers)), **clock.seconds}


def steps():
    while True:
        yield from loader


num_steps = samples // (batch_size * fleet.world_size())
began = None
for step, batch in enumerate(steps()):
    if step == warm:
        clock.seconds = dict.fromkeys(clock.seconds, 0.0)
        fleet.barrier()
        began = readings()
    if step == warm + num_steps:
        fleet.barrier()
        ended = readings()
        break
    loss = nn.functional.cross_entropy(model(batch["ids"], batch["dense"]), batch["label"])
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    fleet.log(loss=loss)
spent = {name: ended[name] - began.get(name, 0.0) for name in ended}
names = [n for n in spent if n not in ("servers", "wall")]
both = np.array(fleet.all_reduce(np.array([spent[n] for n in names])))
spent.update(zip(names, both.tolist(), strict=True))

model.eval()
scores, labels = [], []
with paddle.no_grad():
    for batch in fleet.distributed_loader(ArrayLoader(test_set, 4096)):
        scores.append(nn.functional.softmax(model(batch["ids"], batch["dense"]))[:, 1].numpy())
        labels.append(batch["label"].numpy())
auc = fleet.metrics.auc(scores, labels)
if fleet.rank() == 0:
    found = {"spent": spent, "examples": num_steps * batch_size * fleet.world_size(), "steps": num_steps, "auc": auc}
    print("\nRESULT " + json.dumps(found), flush=True)
