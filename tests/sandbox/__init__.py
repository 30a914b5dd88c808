"""A real swarm, sshd, a registry, a database and a CapRover stand-in on this machine, for the tests and the demo."""
