"""Drills: something is broken on purpose under load, and what was promised is compared with what is seen.

    whiteboard drill list
    whiteboard drill broker-down --rate 100 --seconds 10

One file here is one kind of fault; `catalogue` lists them, `stage` is what they are broken on.
"""
