"""What the services' database roles may do, whole: everything else, Postgres itself refuses."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql

from local.postgres import PostgresServer
from pelican.migrate import migrate
from tests.conftest import Database

ROLES = ("aviary_pelican", "aviary_frontend")
# No service: people who look after dead letters.
OPERATOR = "aviary_operator"
# Every right that a role has in the end, by whatever way it came (its own grants, PUBLIC, ownership, membership). A new
# line here is a decision: say in the migration what it is for.
RIGHTS = """
aviary_frontend | database | this | CONNECT, TEMPORARY
aviary_frontend | function | sync.depth(smallint,smallint) | EXECUTE
aviary_frontend | function | sync.absent(text,text[]) | EXECUTE
aviary_frontend | relation | public.products | DELETE, INSERT, SELECT, UPDATE
aviary_frontend | relation | sync.dead_letter | SELECT
aviary_frontend | relation | sync.reindex | SELECT
aviary_frontend | relation | sync.reindex_status | SELECT
aviary_frontend | relation | sync.source | SELECT
aviary_frontend | relation | sync.status | SELECT
aviary_frontend | schema | public | USAGE
aviary_frontend | schema | sync | USAGE
aviary_operator | database | this | CONNECT, TEMPORARY
aviary_operator | function | sync.absent(text,text[]) | EXECUTE
aviary_operator | function | sync.enqueue(text,text[]) | EXECUTE
aviary_operator | schema | public | USAGE
aviary_operator | schema | sync | USAGE
aviary_pelican | database | this | CONNECT, TEMPORARY
aviary_pelican | function | sync.depth(smallint,smallint) | EXECUTE
aviary_pelican | function | sync.enqueue_code(smallint,text,smallint) | EXECUTE
aviary_pelican | function | sync.key_expression(text[]) | EXECUTE
aviary_pelican | function | sync.request_backfill(smallint) | EXECUTE
aviary_pelican | relation | public.products | SELECT
aviary_pelican | relation | sync.backfill | INSERT, SELECT, UPDATE
aviary_pelican | relation | sync.claim | SELECT, UPDATE
aviary_pelican | relation | sync.dead_letter | DELETE, INSERT, SELECT
aviary_pelican | relation | sync.drift | DELETE, INSERT, SELECT, UPDATE
aviary_pelican | relation | sync.outbox | DELETE, INSERT, SELECT
aviary_pelican | relation | sync.reconcile | INSERT, SELECT, UPDATE
aviary_pelican | relation | sync.reindex | SELECT, UPDATE
aviary_pelican | relation | sync.reindex_status | SELECT
aviary_pelican | relation | sync.source | SELECT, UPDATE
aviary_pelican | relation | sync.status | SELECT
aviary_pelican | schema | public | USAGE
aviary_pelican | schema | sync | USAGE
aviary_pelican | sequence | sync.quiet | SELECT, UPDATE
aviary_pelican | sequence | sync.version | SELECT, UPDATE
"""
EFFECTIVE = """
WITH role AS (SELECT rolname FROM pg_roles WHERE rolname LIKE 'aviary\\_%%'),
space AS (SELECT oid, nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%%' AND nspname <> 'information_schema'),
found AS (
  SELECT 'database' AS kind, 'this' AS object, role.rolname, privilege,
         has_database_privilege(role.rolname, current_database(), privilege) AS allowed
  FROM role, unnest(ARRAY['CONNECT', 'CREATE', 'TEMPORARY']) privilege
  UNION ALL
  SELECT 'schema', nspname, role.rolname, privilege, has_schema_privilege(role.rolname, space.oid, privilege)
  FROM role, space, unnest(ARRAY['USAGE', 'CREATE']) privilege
  UNION ALL
  SELECT 'relation', format('%%I.%%I', nspname, relname), role.rolname, privilege,
         has_table_privilege(role.rolname, c.oid, privilege) OR
         (privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege(role.rolname, c.oid, privilege))
  FROM role, pg_class c JOIN space ON space.oid = c.relnamespace,
       unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) privilege
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  UNION ALL
  SELECT 'sequence', format('%%I.%%I', nspname, relname), role.rolname, privilege,
         CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(role.rolname, c.oid, privilege) END
  FROM role, pg_class c JOIN space ON space.oid = c.relnamespace, unnest(ARRAY['SELECT', 'UPDATE', 'USAGE']) privilege
  WHERE c.relkind = 'S'
  UNION ALL
  SELECT 'function', p.oid::regprocedure::text, role.rolname,
         'EXECUTE', has_function_privilege(role.rolname, p.oid, 'EXECUTE')
  FROM role, pg_proc p JOIN space ON space.oid = p.pronamespace)
SELECT format('%%s | %%s | %%s | %%s', rolname, kind, object, string_agg(privilege, ', ' ORDER BY privilege))
FROM found WHERE allowed AND rolname = ANY (%s) GROUP BY rolname, kind, object"""
OWNED = """
SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
WHERE d.deptype = 'o' AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND r.rolname = %s"""


@pytest.fixture(scope="module")
def migrated(postgres_server: PostgresServer) -> Iterator[Database]:
    """One database with our schema and a table of somebody else's, left as it is by every test."""
    made = Database(postgres_server, f"roles_{uuid.uuid4().hex[:12]}")
    name = sql.Identifier(made.name)
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    with psycopg.connect(made.dsn(), autocommit=True) as connection:
        migrate(connection)
        connection.execute("CREATE TABLE public.salaries (person text, amount int); CREATE SEQUENCE public.numbers")
        connection.execute("SELECT lo_from_bytea(4711, 'x')")
    yield made
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.mark.parametrize("role", [*ROLES, OPERATOR])
def test_each_role_has_exactly_these_rights(migrated: Database, role: str) -> None:
    with psycopg.connect(migrated.dsn()) as connection:
        found = {row[0] for row in connection.execute(EFFECTIVE, [[role]])}
        owned = connection.execute(OWNED, [role]).fetchone()
    assert found == {line for line in RIGHTS.strip().splitlines() if line.startswith(role)}
    assert owned == (0,)


@pytest.mark.parametrize("role", [*ROLES, OPERATOR])
def test_no_role_has_an_attribute_a_membership_or_a_setting_that_lifts_it(migrated: Database, role: str) -> None:
    with psycopg.connect(migrated.dsn()) as connection:
        attributes = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolcanlogin FROM pg_roles "
            "WHERE rolname = %s",
            [role],
        ).fetchone()
        member_of = connection.execute(
            "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = to_regrole(%s)",
            [role],
        ).fetchall()
    assert attributes == (False, False, False, False, False, True)
    assert member_of == []


def test_every_function_that_acts_as_its_owner_names_the_schemas_it_looks_in(migrated: Database) -> None:
    """Else a caller's own functions and operators would run with the owner's rights."""
    with psycopg.connect(migrated.dsn()) as connection:
        loose = connection.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE prosecdef AND oid >= 16384 "
            "AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}'))"
        ).fetchall()
    assert loose == []


DENIED = errors.InsufficientPrivilege
# Nothing here names a right: what no service needs, none has.
NOBODY_MAY = [
    # other people's rows, and our bookkeeping
    "TABLE public.salaries",
    "INSERT INTO public.salaries VALUES ('me', 1000000)",
    "SELECT nextval('public.numbers')",
    "TABLE sync.migration",
    "DELETE FROM sync.migration",
    "INSERT INTO sync.source (name) VALUES ('mine')",
    "UPDATE sync.source SET text_template = ''",
    "DELETE FROM sync.source",
    "UPDATE sync.outbox SET keys = '{}'",
    "TRUNCATE sync.outbox",
    "INSERT INTO sync.claim DEFAULT VALUES",
    "DELETE FROM sync.claim",
    "DELETE FROM sync.backfill",
    "UPDATE sync.dead_letter SET reason = ''",
    "TRUNCATE public.products",
    "LOCK TABLE sync.source IN ACCESS EXCLUSIVE MODE",
    # structure
    "CREATE TABLE public.mine (x int)",
    "CREATE TABLE sync.mine (x int)",
    "CREATE SCHEMA mine",
    "CREATE VIEW public.mine AS SELECT 1",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE FUNCTION sync.mine() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE OR REPLACE FUNCTION sync.may_notify() RETURNS boolean LANGUAGE sql RETURN true",
    "ALTER TABLE public.products ADD COLUMN mine int",
    "ALTER TABLE public.products DISABLE TRIGGER ALL",
    "ALTER TABLE sync.outbox SET UNLOGGED",
    "CREATE TRIGGER mine AFTER INSERT ON public.products EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON INSERT TO public.products DO NOTHING",
    "CREATE POLICY mine ON public.products",
    "CREATE INDEX ON public.products (name)",
    "DROP TRIGGER aviary_insert ON public.products",
    "DROP TABLE public.products",
    "DROP SCHEMA sync CASCADE",
    "DROP FUNCTION sync.depth",
    "COMMENT ON TABLE public.products IS 'mine'",
    "CREATE PUBLICATION mine FOR ALL TABLES",
    "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION mine()",
    # functions of ours for the owner alone
    "SELECT sync.watch('public.salaries', 'salaries', '{person}', '{person}', '{person}', '{}')",
    "SELECT sync.unwatch('products')",
    "SELECT sync.may_notify()",
    "SELECT sync.capture_code('INSERT', 1::smallint, '{id}', '{name}', '{}')",
    "SELECT sync.capture_1_insert()",
    # another role, more rights
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "CREATE ROLE mine",
    "GRANT pg_read_all_data TO aviary_frontend",
    "GRANT aviary_pelican TO aviary_frontend",
    "GRANT aviary_frontend TO aviary_pelican",
    "ALTER ROLE aviary_pelican SUPERUSER",
    "ALTER ROLE aviary_frontend BYPASSRLS",
    "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON TABLES TO PUBLIC",
    "REASSIGN OWNED BY postgres TO aviary_pelican",
    "ALTER DATABASE postgres OWNER TO aviary_pelican",
    # the cluster
    "TABLE pg_authid",
    "TABLE pg_shadow",
    "TABLE pg_hba_file_rules",
    "TABLE pg_user_mapping",
    "TABLE pg_largeobject",
    "TABLE pg_statistic",
    "SELECT rolpassword FROM pg_catalog.pg_authid",
    "SET session_replication_role = replica",
    "SET log_statement = 'none'",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT pg_stat_reset()",
    "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
    "CHECKPOINT",
    # files and programs of the server
    "COPY public.products TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/mine'",
    "COPY public.products FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(4711, '/tmp/mine')",
    "SELECT lo_get(4711)",
    "LOAD '/tmp/mine.so'",
    "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE c AS '/tmp/mine.so'",
]
PELICAN_MAY_NOT = [
    "INSERT INTO public.products (sku, name) VALUES ('a', 'b')",
    "UPDATE public.products SET name = ''",
    "DELETE FROM public.products",
    "SELECT * FROM public.products FOR UPDATE",
    "COPY public.products FROM STDIN",
    "SELECT nextval('public.products_id_seq')",
]
FRONTEND_MAY_NOT = [
    "TABLE sync.outbox",
    "INSERT INTO sync.outbox (source_id, shard, keys, key_count) VALUES (1, 0, '{1}', 1)",
    "DELETE FROM sync.outbox",
    "TABLE sync.claim",
    "UPDATE sync.claim SET version = 0",
    "TABLE sync.backfill",
    "UPDATE sync.backfill SET cursor = NULL",
    "SELECT nextval('sync.version')",
    "SELECT last_value FROM sync.version",
    "SELECT setval('sync.quiet', 1)",
    "SELECT sync.request_backfill(1::smallint)",
    "SELECT sync.enqueue_code(1::smallint, 'SELECT 1')",
    "SELECT sync.key_expression('{id}')",
    "SELECT setval('public.products_id_seq', 1)",
]
OPERATOR_MAY_NOT = [
    "TABLE public.products",
    "DELETE FROM public.products",
    "TABLE sync.source",
    "TABLE sync.dead_letter",
]
REFUSED = [(role, statement) for role in (*ROLES, OPERATOR) for statement in NOBODY_MAY]
REFUSED += [("aviary_pelican", statement) for statement in PELICAN_MAY_NOT]
REFUSED += [("aviary_frontend", statement) for statement in FRONTEND_MAY_NOT]
REFUSED += [(OPERATOR, statement) for statement in (*PELICAN_MAY_NOT, *FRONTEND_MAY_NOT, *OPERATOR_MAY_NOT)]


@pytest.fixture(scope="module")
def sessions(migrated: Database) -> Iterator[dict[str, psycopg.Connection[tuple[object, ...]]]]:
    opened = {role: psycopg.connect(migrated.dsn(user=role), autocommit=True) for role in (*ROLES, OPERATOR)}
    yield opened
    for connection in opened.values():
        connection.close()


@pytest.mark.parametrize(("role", "statement"), REFUSED)
def test_a_role_may_not(sessions: dict[str, psycopg.Connection[tuple[object, ...]]], role: str, statement: str) -> None:
    connection = sessions[role]
    with pytest.raises(DENIED), connection.transaction(force_rollback=True):
        connection.execute(statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        *((role, "LISTEN aviary") for role in ROLES),
        *((role, "TABLE sync.status") for role in ROLES),
        *((role, "SELECT FROM public.products") for role in ROLES),
        ("aviary_pelican", "SELECT nextval('sync.version'), setval('sync.quiet', 0)"),
        ("aviary_pelican", "INSERT INTO sync.outbox (source_id, shard, keys, key_count) VALUES (1, 0, '{1}', 1)"),
        ("aviary_pelican", "DELETE FROM sync.outbox"),
        ("aviary_pelican", "UPDATE sync.claim SET messages = 0"),
        ("aviary_pelican", "SELECT sync.request_backfill(1::smallint)"),
        ("aviary_frontend", "SELECT sync.absent('products', '{1}')"),
        (OPERATOR, "SELECT sync.absent('products', '{1}')"),
        (OPERATOR, "SELECT sync.enqueue('products', '{1}')"),
        ("aviary_frontend", "INSERT INTO public.products (sku, name) VALUES ('a', 'b')"),
        ("aviary_frontend", "UPDATE public.products SET name = ''"),
        ("aviary_frontend", "DELETE FROM public.products"),
    ],
)
def test_a_role_may_do_its_work(
    sessions: dict[str, psycopg.Connection[tuple[object, ...]]], role: str, statement: str
) -> None:
    with sessions[role].transaction(force_rollback=True):
        sessions[role].execute(statement)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_not_change_the_server_s_settings(
    sessions: dict[str, psycopg.Connection[tuple[object, ...]]], role: str
) -> None:
    """By itself, because it must not stand in a transaction."""
    with pytest.raises(DENIED):
        sessions[role].execute("ALTER SYSTEM SET log_statement = 'all'")


def test_a_watched_table_is_readable_and_no_more_and_not_after_it_is_unwatched(migrated: Database) -> None:
    columns = ["person"], ["person"], "{person}", ["amount"]
    with psycopg.connect(migrated.dsn()) as connection, connection.transaction(force_rollback=True):
        before = _rights(connection, "salaries")
        connection.execute("ALTER TABLE public.salaries ADD PRIMARY KEY (person)")
        connection.execute("SELECT sync.watch('public.salaries', 'salaries', %s, %s, %s, %s)", columns)
        assert _rights(connection, "salaries") == {f"{role} | relation | public.salaries | SELECT" for role in ROLES}
        connection.execute("SELECT sync.unwatch('salaries')")
        assert _rights(connection, "salaries") == before == set()


def _rights(connection: psycopg.Connection[tuple[object, ...]], relation: str) -> set[object]:
    found = {row[0] for row in connection.execute(EFFECTIVE, [list(ROLES)])}
    return {line for line in found if isinstance(line, str) and f".{relation} " in line}
