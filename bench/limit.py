"""The limit: pgbench writes the rows that one points order leaves, in three transactions, on the same
Postgres in the same run. Whatever a shop does beyond that is what it costs to be a shop."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.cpu import cpu_ms
from deploy.local import postgres
from deploy.local.stackfile import StackFile

_DATABASE = "bench_limit"
_TPS = re.compile(r"tps = ([\d.]+)")

# Ids out of small numbers, so that pgbench can draw them.
_ROWS = """
    CREATE FUNCTION numbered(n bigint) RETURNS uuid IMMUTABLE PARALLEL SAFE LANGUAGE sql
    RETURN ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid;
    INSERT INTO products (id, title, price_cents, price_points, currency, asset_key)
        SELECT numbered(n), 'Bench', 100, 10, 'usd', 'bench' FROM generate_series(1, {products}) n;
    INSERT INTO product_inventory (product_id, stock_quantity)
        SELECT numbered(n), 1000000 FROM generate_series(1, {products}) n;
    INSERT INTO wallet.profiles (id, points, ledger_seq)
        SELECT numbered(n), 1000000000, 0 FROM generate_series(1, {customers}) n;
    ANALYZE"""

# Transaction 1 places the order and reserves stock, 2 is wallet's, 3 confirms. Two lines, limited stock.
_SCRIPT = Path(__file__).with_name("limit.sql")


@dataclass(frozen=True)
class Limit:
    orders_per_s: float
    cpu_ms_per_order: float


def measure(stack: StackFile, *, products: int, customers: int, orders: int, concurrency: int) -> Limit:
    """Copies both services' tables into one database and runs the script `orders` times."""
    url = _prepare(stack, products=products, customers=customers)
    each = max(1, orders // concurrency)
    command = [
        str(postgres.binary("pgbench")),
        *("-n", "-M", "prepared", "-f", str(_SCRIPT), "-c", str(concurrency), "-j", "1", "-t", str(each)),
        *("-D", f"products={products}", "-D", f"customers={customers}", url),
    ]
    server = {"postgres": stack.pids["postgres"]}
    before = cpu_ms(server)["postgres"]
    with tempfile.TemporaryFile("w+") as output:
        pgbench = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        client_ms = _wait(pgbench)
        output.seek(0)
        text = output.read()
    if pgbench.returncode != 0:
        raise RuntimeError(f"pgbench failed:\n{text}")
    rate = _TPS.search(text)
    assert rate is not None, text
    spent = cpu_ms(server)["postgres"] - before + client_ms
    return Limit(float(rate[1]), spent / (each * concurrency))


def _wait(process: "subprocess.Popen[bytes]") -> float:
    """Waits for the client and returns its own CPU milliseconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return (usage.ru_utime + usage.ru_stime) * 1000


def _prepare(stack: StackFile, *, products: int, customers: int) -> str:
    admin = stack.database_urls["orders"]
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {_DATABASE}")
        connection.execute(f"CREATE DATABASE {_DATABASE}")
    url = f"{admin.rpartition('/')[0]}/{_DATABASE}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_schema(stack.database_urls["orders"]).encode())
        connection.execute("CREATE SCHEMA wallet")
        connection.execute(_schema(stack.database_urls["wallet"]).replace("public", "wallet").encode())
        connection.execute("SET search_path = public")
        connection.execute(_ROWS.format(products=products, customers=customers).encode())
    return url


def _schema(url: str) -> str:
    command = [str(postgres.binary("pg_dump")), "--schema-only", "--no-owner", "--no-privileges", "-d", url]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # psql's own commands, and policies for roles, do not belong to the rows.
    kept = [line for line in dump.splitlines() if not line.startswith("\\")]
    return re.sub(r"CREATE POLICY [^;]+;", "", "\n".join(kept))
