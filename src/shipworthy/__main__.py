"""`python -m shipworthy` is the `shipworthy` command."""

from shipworthy.faces.cli.main import main

main()
