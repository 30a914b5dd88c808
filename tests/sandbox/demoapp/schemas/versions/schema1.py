"""Customers, a thousand of them."""

from datetime import date, timedelta

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    customers = op.create_table(
        "customers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("born", sa.Date),
    )
    first = date(1970, 1, 1)
    op.bulk_insert(
        customers,
        [{"id": i, "name": f"customer {i}", "born": first + timedelta(days=i)} for i in range(1, 1001)],
    )
