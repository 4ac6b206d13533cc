"""What each command shows: at a terminal of 80 columns, in a pipe, and at that terminal with NO_COLOR.

The files next to this one are what was seen, with measured numbers masked; `python -m tests.goldens --write` makes them
anew, `python -m tests.goldens NAME` shows one.
"""
