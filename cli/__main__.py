from bnfold_cli.main import main

main()
