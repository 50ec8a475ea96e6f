"""Whiteboard: the ML system-design interview as running code. One file here is one box on the whiteboard."""

from contextlib import suppress

# Feast has its classes rewritten for run-time type checks whenever it is imported: half of the time that a process of
# ours takes to start. typeguard leaves them alone under `python -O` only, which would compile everything anew.
with suppress(ImportError):
    import typeguard

    setattr(typeguard, "typechecked", lambda target: target)  # noqa: B010  (to mypy it is a function)
