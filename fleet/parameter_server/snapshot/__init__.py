"""Snapshots: tables on disk. ``docs/snapshot.md`` describes the files, ``python -m`` this package looks at them."""
