"""Measures pmxfs, its peers and the machine; started by scripts/bench, which says how."""
