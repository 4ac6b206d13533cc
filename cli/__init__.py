"""The command line of bnfold: one file per command, no logic, nothing heavy imported before it is needed."""

import gc

gc.set_threshold(250_000)  # of a process that lives for a second, collections at the default of 700 are a tenth
