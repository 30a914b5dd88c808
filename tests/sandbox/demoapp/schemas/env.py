"""How Alembic reaches the database."""

import os

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}

url = make_url(os.environ["DATABASE_URL"])
url = url.set(drivername=DRIVERS[url.drivername])
with create_engine(url).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
