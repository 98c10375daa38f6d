"""Small made-up data sets in the formats of the tasks of BLUE and BLURB, written by tests/samples/generate.py.

Most drug, gene and study names in them do not exist. The data serve to try the harness and to test it. A model learns
them quickly, and its scores on them mean nothing.
"""
