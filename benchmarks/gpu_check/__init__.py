"""`make gpu-check`: everything that can only be proven on a GPU, in parts, and one table of what came out."""
