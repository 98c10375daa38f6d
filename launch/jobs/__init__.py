"""Many runs: what is submitted, where it runs, and what became of it."""
