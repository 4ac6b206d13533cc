"""bnfold and its peers on random graphs: `python -m tests.differential`"""
