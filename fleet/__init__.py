"""fleet: a single-machine PaddlePaddle script as a job of many processes, in ten lines."""

__version__ = "0.1.0"
