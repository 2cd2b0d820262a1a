"""One file per way to run calls; `protocol.py` says what each must do, `choose.py` finds the one that was asked for."""
