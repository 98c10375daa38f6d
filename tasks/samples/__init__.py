"""Small made-up data sets in the formats of the ten BLUE tasks, and the program that wrote them.

Every sentence comes from templates and word lists in this folder; most drug, gene and study names do not exist. The
data serve to try the harness and to test it. A model learns them quickly, and its scores on them mean nothing.
"""
