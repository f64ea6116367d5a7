"""A shop's database as an application would have it: realistic rows, no filler.

Everything is drawn from a seeded generator, so two runs make the same rows.
"""

import random
import sqlite3
import uuid

WORDS = (
    "amber anchor apple autumn barrel basil beach birch blanket blue bottle bread brass bridge brush "
    "candle canvas carbon cedar ceramic chair clay clock cloud coat coffee copper cotton cup desk dove "
    "drawer ember fabric feather fern field flask flint fork frame garden glass glove gold grain green "
    "hammer harbor hazel honey ink iron ivory jar kettle lamp lantern leaf leather lemon linen maple "
    "marble meadow mirror moss needle oak oil olive onyx orchid paper pearl pepper pine plate porcelain "
    "quartz quilt rain ribbon river rope rose rug sage salt sand shelf silk silver slate spoon spruce "
    "stone sugar table tea thread tile timber tin towel velvet vine walnut wax wheat willow wool"
).split()
STREETS = "High Church Station Mill Park Bridge Castle Garden School Market River Forest Lake".split()
CITIES = "Berlin Lyon Porto Gdansk Turin Bergen Malmo Ghent Cork Leeds Basel Graz Tartu Brno".split()
STATES = ("new", "paid", "packed", "shipped", "delivered", "returned")

SCHEMA = """
CREATE TABLE customers (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, street TEXT, city TEXT,
  created_at INTEGER NOT NULL, balance_cents INTEGER NOT NULL);
CREATE TABLE orders (
  id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id),
  reference TEXT NOT NULL, state TEXT NOT NULL, placed_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
  total_cents INTEGER NOT NULL, note TEXT);
CREATE INDEX orders_customer ON orders (customer_id);
CREATE UNIQUE INDEX orders_reference ON orders (reference);
CREATE INDEX orders_placed ON orders (placed_at);
"""
ORDER = "INSERT INTO orders VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
YEAR = 365 * 86_400
EPOCH = 1_700_000_000


class Shop:
    """A database and the generator that fills it."""

    def __init__(self, path, seed=1):
        self.draw = random.Random(seed)
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.path = path

    def words(self, least, most):
        return " ".join(self.draw.choices(WORDS, k=self.draw.randint(least, most)))

    def customer(self, number):
        first, last = self.draw.choice(WORDS).title(), self.draw.choice(WORDS).title()
        street = f"{self.draw.choice(STREETS)} Street {self.draw.randint(1, 240)}"
        created = EPOCH - self.draw.randint(0, 3 * YEAR)
        email = f"{first}.{last}.{number}@example.com".lower()
        return (f"{first} {last}", email, street, self.draw.choice(CITIES), created, 0)

    def order(self, customers, placed_at):
        reference = str(uuid.UUID(int=self.draw.getrandbits(128), version=4))
        total = int(self.draw.lognormvariate(8.5, 0.9))
        customer = 1 + int(customers * self.draw.random() ** 2)
        state = self.draw.choice(STATES)
        return (customer, reference, state, placed_at, placed_at, total, self.words(4, 30))

    def fill(self, size_bytes):
        """Inserts until the file has at least `size_bytes`."""
        self.db.executescript(SCHEMA)
        customers = max(1000, size_bytes // 20_000)
        self.db.execute("BEGIN")
        rows = (self.customer(number) for number in range(customers))
        self.db.executemany("INSERT INTO customers VALUES (NULL, ?, ?, ?, ?, ?, ?)", rows)
        self.db.execute("COMMIT")
        placed = EPOCH - YEAR
        while self.size() < size_bytes:
            self.db.execute("BEGIN")
            batch = []
            for _ in range(50_000):
                placed += self.draw.randint(0, 12)
                batch.append(self.order(customers, placed))
            self.db.executemany(ORDER, batch)
            self.db.execute("COMMIT")
        self.settle()

    def settle(self):
        """Brings everything into the database file, so that a file copy is a valid backup too."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def size(self):
        pages, = self.db.execute("PRAGMA page_count").fetchone()
        page_bytes, = self.db.execute("PRAGMA page_size").fetchone()
        return pages * page_bytes

    def rows(self):
        return self.db.execute("SELECT max(id) FROM orders").fetchone()[0]

    def update(self, share):
        """Updates so large a share of the orders, each somewhere else."""
        rows = self.rows()
        self.db.execute("BEGIN")
        for _ in range(max(1, int(rows * share))):
            order = self.draw.randint(1, rows)
            change = (self.draw.choice(STATES), self.draw.randint(1, 5000), order)
            self.db.execute(
                "UPDATE orders SET state = ?, total_cents = total_cents + ?,"
                " updated_at = updated_at + 60 WHERE id = ?", change)
        self.db.execute("COMMIT")

    def insert(self, share):
        """Adds new orders, as many as this share of the old ones."""
        rows = self.rows()
        customers, = self.db.execute("SELECT max(id) FROM customers").fetchone()
        placed, = self.db.execute("SELECT max(placed_at) FROM orders").fetchone()
        self.db.execute("BEGIN")
        for _ in range(int(rows * share)):
            placed += self.draw.randint(0, 12)
            self.db.execute(ORDER, self.order(customers, placed))
        self.db.execute("COMMIT")

    def delete(self, share):
        """Deletes the oldest orders."""
        rows = self.rows()
        self.db.execute("DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY id LIMIT ?)",
                        (int(rows * share),))

    def incremental_vacuum(self):
        """Gives free pages back, as a nightly job does."""
        self.db.execute("PRAGMA incremental_vacuum").fetchall()
        self.settle()

    def full_vacuum(self):
        """Rewrites the whole file: every row ends up on another page."""
        self.db.execute("VACUUM")
        self.settle()
