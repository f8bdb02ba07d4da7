"""Every statement is a literal with parameters, or put together by psycopg.sql: values never become SQL."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SENDS = {"execute", "executemany", "stream", "ask"}
COMPOSABLE = {"Composed", "Composable", "SQL", "Identifier", "Literal", "Placeholder"}
# What is neither, each with the reason why it is no value from outside: (file, expression) → reason.
KNOWN = {
    ("frontend/src/frontend/store.py", "watched.types[column]"): "a type's name as the catalogue prints it (regtype)",
    ("frontend/src/frontend/store.py", "condition"): "from a tuple of literals above it",
    ("pelican/src/pelican/rows.py", "column.type"): "a type's name as the catalogue prints it (regtype)",
    ("pelican/src/pelican/rows.py", "column.type.replace('%', '%%')"): "the same, for a statement with parameters",
    ("pelican/src/pelican/rows.py", "table.columns[c].type.replace('%', '%%')"): "the same",
    ("pelican/src/pelican/ledger.py", "code"): "made by sync.enqueue_code",
    ("pelican/src/pelican/ledger.py", "query"): "the statements of this module",
    ("pelican/src/pelican/rows.py", "sql.Identifier(*names).as_string().replace('%', '%%')"): "quoted by psycopg",
    ("pelican/src/pelican/rows.py", "sql.Literal(column.type).as_string().replace('%', '%%')"): "quoted by psycopg",
    ("pelican/src/pelican/rows.py", "key_text.replace('%', '%%')"): "an expression made by sync.key_expression",
    ("pelican/src/pelican/rows.py", "f'c{number}'"): "a number of ours",
    ("pelican/src/pelican/migrate.py", "migration.statements"): "a file of this package",
    ("pelican/src/pelican/backfill.py", "str(code and code[0]).replace('%', '%%')"): "made by sync.enqueue_code",
    ("pelican/src/pelican/backfill.py", "query"): "the string of a Composed, from _page_query",
    ("pelican/src/pelican/comparison.py", "query"): "a Composed, from pelican.rows",
    ("frontend/src/frontend/store.py", "self._rows_query(watched)"): "the bytes of a Composed, kept for each source",
    ("frontend/src/frontend/pool.py", "statement"): "an empty one, or what `ask` was given, which is looked at there",
    ("pelican/src/pelican/outbox.py", "known.query"): "the string of a Composed, from pelican.rows.claim_query",
}


class Module:
    """One file with its functions, and what each name in it is bound to."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.tree = ast.parse(text)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.functions = {
            n.name: n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        }

    def statements(self) -> Iterator[ast.expr]:
        """What is sent to a database, and what becomes SQL by way of psycopg.sql.SQL."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Call(func=ast.Attribute(attr=name) as called, args=[first, *_]):
                    if name in SENDS or ast.unparse(called) == "sql.SQL":
                        yield first

    def harmless(self, node: ast.expr) -> bool:
        if (self.path, ast.unparse(node)) in KNOWN:
            return True
        match node:
            case ast.Constant():
                return True
            case ast.IfExp():
                return self.harmless(node.body) and self.harmless(node.orelse)
            case ast.BinOp(op=ast.Add()):
                return self.harmless(node.left) and self.harmless(node.right)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="sql"))):
                return True  # sql.SQL's own argument is looked at by itself
            case ast.Call(func=ast.Attribute(value=inner, attr="format" | "join")):
                return self._composed(inner)
            case ast.Call(func=ast.Name(id=name)):
                return self._gives_composable(name)
            case ast.Name(id=name):
                bound = list(self._bindings(name, node))
                return bool(bound) and all(self.harmless(each) for each in bound)
        return False

    def _composed(self, node: ast.expr) -> bool:
        """Whether `node` is surely an object of psycopg.sql, and no str."""
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="sql"))):
                return True
            case ast.Name(id=name):
                bound = list(self._bindings(name, node))
                return bool(bound) and all(self._composed(each) for each in bound)
        return False

    def _gives_composable(self, name: str) -> bool:
        returns = self.functions[name].returns if name in self.functions else None
        return returns is not None and ast.unparse(returns).rpartition(".")[2] in COMPOSABLE

    def _bindings(self, name: str, at: ast.AST) -> Iterator[ast.expr]:
        """Every value that `name` is given in the function around `at`, else in the module."""
        around: ast.AST = at
        while not isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            around = self.parents[around]
        for node in ast.walk(around):
            match node:
                case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                    yield value
                case ast.AugAssign(target=ast.Name(id=found), value=value) if found == name:
                    yield value
                case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if found == name:
                    yield value
                case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id=found), *_])], value=ast.Call() as call):
                    if found == name:
                        yield from self._first_of(call)
                case ast.ImportFrom(module=str(module), names=names) if name in {alias.name for alias in names}:
                    yield from self._imported(module, name)
                case ast.arg(arg=found, annotation=given) if found == name:
                    composable = given is not None and ast.unparse(given).rpartition(".")[2] in COMPOSABLE
                    yield ast.Constant("") if composable else given or node  # type: ignore[misc] # an ast.arg is no expression, so never harmless
        if not isinstance(around, ast.Module) and not any(
            isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in ast.walk(around)
        ):
            yield from self._bindings(name, self.tree)

    def _imported(self, module: str, name: str) -> Iterator[ast.expr]:
        """What a constant of another of our modules is bound to."""
        for file in (ROOT / "services").glob(f"*/src/{module.replace('.', '/')}.py"):
            other = Module(file.relative_to(ROOT / "services").as_posix(), file.read_text())
            yield from other._bindings(name, other.tree)

    def _first_of(self, call: ast.Call) -> Iterator[ast.expr]:
        """The first value of a function here that returns a tuple[Composable, …]."""
        name = ast.unparse(call.func)
        returns = self.functions[name].returns if name in self.functions else None
        first = returns.slice.elts[0] if isinstance(returns, ast.Subscript) and isinstance(returns.slice, ast.Tuple) else call  # fmt: skip
        yield ast.Constant("") if ast.unparse(first).rpartition(".")[2] in COMPOSABLE else call


def offences(path: str, text: str) -> list[str]:
    module = Module(path, text)
    return [f"{path}:{n.lineno}: {ast.unparse(n)}" for n in module.statements() if not module.harmless(n)]


def test_no_statement_of_a_service_holds_a_value_outside_its_parameters() -> None:
    files = sorted((ROOT / "services").rglob("src/**/*.py"))
    assert len(files) > 50, "the services are not where they were"
    found = [o for f in files for o in offences(f.relative_to(ROOT / "services").as_posix(), f.read_text())]
    assert not found, "SQL must be a literal with parameters, or composed by psycopg.sql:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        'c.execute(f"SELECT {x}")',
        'c.execute("SELECT " + x)',
        'c.execute("SELECT %s" % x)',
        'c.execute("SELECT {}".format(x))',
        'q = "SELECT {}"\nc.execute(q.format(x))',
        'q = f"SELECT {x}"\nc.execute(q)',
        "def f(c, q: str):\n    c.execute(q)",
        'sql.SQL(f"SELECT {x}")',
        "sql.SQL(x)",
        'q = "SELECT 1"\nif x:\n    q += x\nc.execute(q)',
        "c.execute(make(x))",
    ],
)
def test_the_rule_sees_a_value_that_becomes_sql(code: str) -> None:
    assert offences("some/file.py", code)


@pytest.mark.parametrize(
    "code",
    [
        'c.execute("SELECT %s", (x,))',
        'Q = "SELECT 1"\ndef f(c):\n    c.execute(Q)',
        'c.execute(sql.SQL("SELECT {}").format(sql.Identifier(x)))',
        "def f(c, q: sql.Composed):\n    c.execute(q)",
        "def make(x) -> sql.Composed: ...\nc.execute(make(x))",
        "def make(x) -> tuple[sql.Composed, int]: ...\nq, n = make(x)\nc.execute(q)",
    ],
)
def test_the_rule_lets_pass_what_is_composed(code: str) -> None:
    assert not offences("some/file.py", code)
