"""A fuzzer of `bnfold.fold` in Python: graphs that ordinary generators do not make, and a judge of its own."""
