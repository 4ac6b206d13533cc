"""`python -m bnfold`: the command line."""

from bnfold_cli.main import main

main()
