"""`python -m sandbox.stripe`: a Stripe on this machine."""

import argparse
from pathlib import Path

from sandbox.seeds import checked
from sandbox.stripe.server import run

arguments = argparse.ArgumentParser(prog="python -m sandbox.stripe", description=__doc__)
arguments.add_argument("--port", type=int, default=12111, help="0 takes a free one")
arguments.add_argument("--host", default="127.0.0.1")
arguments.add_argument("--state", type=Path, default=None, help="file that outlives a restart; without it: memory only")
arguments.add_argument("--seed", default="empty", help="empty, story, or a number of invoices")
arguments.add_argument("--live", action="store_true", help="take sk_live_ keys instead of sk_test_ ones")
chosen = arguments.parse_args()
try:
    checked(chosen.seed)
except ValueError as refusal:
    arguments.error(str(refusal))
run(chosen.port, chosen.seed, chosen.state, chosen.host, chosen.live)
