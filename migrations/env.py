"""How migrations run: as the owner of the tables, in one transaction, and never waiting long for a lock.

`flask db upgrade` and the tests pass the connection in; nothing here reads settings.
"""

from typing import Any

from alembic import context

import billing.circuits
import billing.models
import billing.outages.alarms
import billing.outages.allowances
import billing.outages.decisions
import billing.outages.findings
import billing.outages.messages.models
import billing.outages.models
import billing.rates  # noqa: F401
import tenants.models  # noqa: F401
import webhooks.models  # noqa: F401
from tenants.db import Base


def _compared(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    return not (kind == "table" and name == "alembic_version")


connection = context.config.attributes["connection"]
connection.exec_driver_sql("SET lock_timeout = '5s'")
connection.exec_driver_sql("SET statement_timeout = '10min'")
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    include_object=_compared,
    compare_server_default=False,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
