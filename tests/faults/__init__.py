"""Fault injection: whole deploys on a real swarm, each interrupted at one of its outward calls."""
