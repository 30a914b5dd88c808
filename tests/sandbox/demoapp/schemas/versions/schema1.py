"""Customers, a thousand of them."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("born", sa.Date),
    )
    op.execute(
        "INSERT INTO customers SELECT i, 'customer ' || i, date '1970-01-01' + i FROM generate_series(1, 1000) i"
    )
