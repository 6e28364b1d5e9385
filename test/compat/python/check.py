"""How a client's program speaks with the runner of test/compat, and the corpus that both know. It never talks to a broker."""

import json
import os
import sys
import traceback

LEN, PARTITIONS, EPOCH = 1000, 4, 1_700_000_000_000
BOOTSTRAP = os.environ["OUTRELAY_COMPAT_BOOTSTRAP"]
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CORPUS = [(f"k{i % 10}".encode(), f"v{i}:{'x' * (i % 200)}".encode(), [("n", str(i).encode())]) for i in range(LEN)]


def say(**line):
    print(json.dumps(line), flush=True)


def run(name, f, *args, wrote=""):
    """Runs a check and tells how it ended; `wrote` names the topic in which it has left the corpus."""
    try:
        f(*args)
    except Exception:  # whatever a client throws is what the check has shown
        say(check=name, result="failed", why=traceback.format_exc())
    else:
        say(check=name, result="passed", wrote=wrote)


def skip(name, why):
    say(check=name, result="skipped", why=why)


def restart():
    say(ask="restart")
    assert sys.stdin.readline() == "ok\n"


def same(got, want):
    assert got == want, f"got {got!r}, want {want!r}"


def whole(records):
    """Each record of the corpus is there once, with key and headers."""
    got = sorted((k, v, list(h)) for k, v, h in records)
    same(len(got), LEN)
    for g, w in zip(got, sorted(CORPUS)):
        same(g, w)
