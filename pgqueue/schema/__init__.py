"""The schema: finds the SQL files, compares them with a database, and applies what is missing.

`sql/structure/` runs once and is frozen by its checksum; `sql/functions/` is applied again, in
order, when any of it changed; `sql/grants.sql` comes last. Everything happens in one transaction
under an advisory lock, so any number of installers may start at once.
"""

from pgqueue.schema.ledger import Plan, Status, check, check_async, plan
from pgqueue.schema.migrator import Report, migrate
from pgqueue.schema.script import sql_text
from pgqueue.schema.source import SqlFile, sql_root

__all__ = ["Plan", "Report", "SqlFile", "Status", "check", "check_async", "migrate", "plan", "sql_root", "sql_text"]
