"""DeepSpeed settings that ship with the code, one JSON each; a package so that they are installed with it."""
