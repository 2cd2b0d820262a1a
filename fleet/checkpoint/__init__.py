"""Checkpoints of a whole job: atomic, checksummed, resumable to the batch on another number of trainers. docs/checkpoint.md."""

from fleet.checkpoint.checkpointer import Checkpointer

__all__ = ["Checkpointer"]
