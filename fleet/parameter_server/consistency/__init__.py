"""The consistencies of parameter-server training: what a pull may miss, and what is waited for. One file each."""

ORDER: tuple[str, ...] = ("sync", "async_")
