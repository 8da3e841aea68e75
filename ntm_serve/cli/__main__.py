"""`python -m ntm_serve.cli`, for where no script is installed."""

from ntm_serve.cli import main

main()
