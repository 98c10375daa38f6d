"""Ours, as a peer is started: launch/train.py with the flags given, and its device memory on the last line."""

from __future__ import annotations

import json
import sys

from benchmarks.peers import feed
from launch import train


def main() -> None:
    """Train, print a line."""
    status = train.main(sys.argv[1:])
    if status:
        sys.exit(status)
    print(json.dumps({"device_mib": feed.device_mib()}))


if __name__ == "__main__":
    main()
