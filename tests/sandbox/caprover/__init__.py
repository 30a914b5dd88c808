"""A stand-in for CapRover 1.15.3: its API on a real swarm, with the faults that a deploy client must survive."""
