"""`python -m act_eval` is `act-eval`; `accelerate launch -m act_eval search ...` needs a module."""

from act_eval.cli.app import main

main()
