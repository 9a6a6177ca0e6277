"""Row-level security, said once: who may see and who may write the rows of a table."""

from alembic import op

# Compared within the subquery: of a boolean that it cannot know PostgreSQL expects that half of the rows pass, of a
# comparison that hardly any do, and then it joins those few each with each.
OPERATOR = "(SELECT current_setting('app.operator', true) = 'on')"
AGENCY = "(SELECT nullif(current_setting('app.agency', true), '')::bigint)"
OWN = f"{OPERATOR} OR agency_id = {AGENCY}"
APP = "outage_app"


def wall(table: str, *, sees: str = OWN, writes: str = OWN, may: str = "SELECT, INSERT, UPDATE") -> None:
    """Enable and force row-level security on `table` and give the application's role the rights named in `may`."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY sees ON {table} FOR SELECT USING ({sees})")
    op.execute(f"CREATE POLICY adds ON {table} FOR INSERT WITH CHECK ({writes})")
    op.execute(f"CREATE POLICY changes ON {table} FOR UPDATE USING ({writes}) WITH CHECK ({writes})")
    op.execute(f"CREATE POLICY removes ON {table} FOR DELETE USING ({writes})")
    op.execute(f"GRANT {may} ON {table} TO {APP}")


def add_only(table: str) -> None:
    """Refuse UPDATE, DELETE and TRUNCATE on `table` to everybody who has not switched triggers off."""
    op.execute(
        f"""
        CREATE FUNCTION {table}_are_added_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION '{table} can be added to, never changed or removed' USING ERRCODE = '42501'; END $$
        """
    )
    for event, level in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER {table}_{level.lower()} BEFORE {event} ON {table} "
            f"FOR EACH {level} EXECUTE FUNCTION {table}_are_added_only()"
        )
