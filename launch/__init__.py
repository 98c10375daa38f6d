"""Entry points: the only place that puts tasks and harness together."""
