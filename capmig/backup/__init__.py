"""Backing up an app's database and bringing it back: which database, with what client, by which jobs."""
