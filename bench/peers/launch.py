"""Becomes another program: how the embedded stack, which starts modules, supervises one of another environment.

python -m bench.peers.launch bench/peers/.venv/bin/bentoml serve bento:Fraud
"""

import os
import sys

if __name__ == "__main__":
    os.execv(sys.argv[1], sys.argv[1:])
