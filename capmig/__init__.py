"""capmig: the deploy step that migrates the database between two versions of a CapRover app."""
