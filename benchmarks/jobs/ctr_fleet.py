"""Our side of benchmarks/ctr.py: CTR-DNN on a parameter server, started by fleet.launch. Prints RESULT and a JSON object."""

import json
import sys
import time

import paddle
from paddle import nn

import fleet
from fleet.data import ArrayLoader, criteo

data, epochs, batch_size, consistency, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], 10

fleet.init(strategy=fleet.DistributedStrategy(batch="per_trainer", parameter_server={"consistency": consistency}))


class CtrDnn(nn.Layer):
    def __init__(self):
        super().__init__()
        self.embedding = fleet.parameter_server.Embedding(dim, initializer=nn.initializer.Uniform(-0.01, 0.01))
        widths = [26 * dim + 13, 400, 400, 400]
        layers = [layer for i, o in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.deep, self.wide = nn.Sequential(*layers, nn.Linear(400, 2)), nn.Linear(13, 2)

    def forward(self, ids, dense):
        rows = self.embedding(ids).reshape([len(ids), -1])
        return self.deep(paddle.concat([rows, dense], axis=1)) + self.wide(dense)


def arrays(part):
    found = criteo.open_pack(f"{data}/{part}.pack")
    return {"ids": found["ids"][:], "dense": found["dense"][:], "label": found["label"][:].astype("int64")}


train_set, test_set = arrays("train"), arrays("test")
paddle.seed(1)
model = fleet.distributed_model(CtrDnn())
optimizer = paddle.optimizer.Adam(1e-3, parameters=model.parameters(), lazy_mode=True, use_multi_tensor=True)
optimizer = fleet.distributed_optimizer(optimizer)
loader = fleet.distributed_loader(ArrayLoader(train_set, batch_size, shuffle=True), ids={"ids": model.embedding})

seconds = []
for _ in range(epochs):
    fleet.barrier()
    began = time.perf_counter()
    for batch in loader:
        loss = nn.functional.cross_entropy(model(batch["ids"], batch["dense"]), batch["label"])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        fleet.log(loss=loss)
    fleet.barrier()
    seconds.append(time.perf_counter() - began)

model.eval()
scores, labels = [], []
with paddle.no_grad():
    for batch in fleet.distributed_loader(ArrayLoader(test_set, 4096)):
        scores.append(nn.functional.softmax(model(batch["ids"], batch["dense"]))[:, 1].numpy())
        labels.append(batch["label"].numpy())
auc = fleet.metrics.auc(scores, labels)
if fleet.rank() == 0:
    print("\nRESULT " + json.dumps({"seconds": seconds, "examples": len(train_set["label"]), "auc": auc}), flush=True)
