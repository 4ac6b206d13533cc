"""The command line of bnfold: one file per command, no logic, nothing heavy imported before it is needed."""
