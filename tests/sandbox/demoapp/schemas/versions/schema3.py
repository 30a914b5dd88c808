"""The name moves into two columns: code of schema 2 cannot work with this one."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.add_column("customers", sa.Column("surname", sa.Text, nullable=False, server_default=""))
    op.execute("UPDATE customers SET surname = substr(name, 10), name = 'customer'")
