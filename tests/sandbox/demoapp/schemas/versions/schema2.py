"""Customers have an address of their own for mail."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("customers", sa.Column("email", sa.Text, nullable=False, server_default=""))
    customers = sa.table("customers", sa.column("id", sa.Integer), sa.column("email", sa.Text))
    op.execute(customers.update().values(email="customer" + sa.cast(customers.c.id, sa.String(20)) + "@example.org"))
