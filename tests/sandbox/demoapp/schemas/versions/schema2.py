"""Customers have an address of their own for mail."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("customers", sa.Column("email", sa.Text))
    op.execute("UPDATE customers SET email = 'customer' || id || '@example.org'")
    op.alter_column("customers", "email", nullable=False)
