"""ResNet-50 learns to tell pictures apart, on one machine, in plain Paddle.

The pictures are made here: stripes of four directions under noise. Deepened later: ImageNet from disk, augmentation.
"""

import argparse
import time

import numpy as np
import paddle
from paddle import nn

import fleet

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=int, default=384)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch_size", type=int, default=16)
parser.add_argument("--size", type=int, default=32, help="pixels a side; ImageNet's are 224")
parser.add_argument("--learning_rate", type=float, default=0.003)
parser.add_argument("--workers", type=int, default=0, help="processes that make pictures")
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
CLASSES = 4


class Stripes(paddle.io.Dataset):
    """Pairs (float32[3, size, size], class): a wave whose direction is the class, random in phase and colour, with noise."""

    def __init__(self, count, seed):
        self.count, self.seed = count, seed
        self.y, self.x = np.mgrid[: args.size, : args.size] / args.size

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        rng = np.random.default_rng([self.seed, i])
        label = int(rng.integers(CLASSES))
        angle = np.pi * label / CLASSES
        wave = np.sin(2 * np.pi * (3 * (np.cos(angle) * self.x + np.sin(angle) * self.y) + rng.random()))
        image = wave * rng.uniform(0.5, 1.0, (3, 1, 1)) + rng.normal(0, 0.2, (3, args.size, args.size))
        return image.astype("float32"), label


fleet.init()
train_set, test_set = Stripes(args.images, args.seed), Stripes(128, args.seed + 1)
paddle.seed(args.seed)
model = fleet.distributed_model(paddle.vision.models.resnet50(num_classes=CLASSES))
optimizer = paddle.optimizer.Momentum(args.learning_rate, 0.9, parameters=model.parameters(), weight_decay=1e-4)
optimizer = fleet.distributed_optimizer(optimizer)
loader = paddle.io.DataLoader(train_set, batch_size=args.batch_size, shuffle=True, num_workers=args.workers)
loader = fleet.distributed_loader(loader)
ckpt = fleet.Checkpointer("checkpoints/resnet50", model=model, optimizer=optimizer, loader=loader, every_steps=100)

began = time.perf_counter()
for epoch in ckpt.epochs(args.epochs):
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    print(f"epoch {epoch} loss {float(loss):.4f}", flush=True)
rate = args.epochs * len(train_set) / (time.perf_counter() - began)

model.eval()
right = []
with paddle.no_grad():
    for images, labels in fleet.distributed_loader(paddle.io.DataLoader(test_set, batch_size=64)):
        right.append((model(images).argmax(-1) == labels.flatten()).numpy())
accuracy = fleet.metrics.accuracy(right)
print(f"pictures told apart: {accuracy:.3f}, {rate:.1f} images/s")
