"""The database behind the label store: its tables, its statements, how it is opened."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief

FILE_NAME = "labels.sqlite"
SCHEMA_VERSION = 1

NOT_OURS = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""Raised by rows that this program did not write."""

_TABLES = (
    """CREATE TABLE IF NOT EXISTS meta (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS images (
        id INTEGER PRIMARY KEY,
        sha256 TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        path TEXT NOT NULL,
        signal TEXT NOT NULL,
        height INTEGER NOT NULL,
        width INTEGER NOT NULL,
        material TEXT NOT NULL,
        pixel_height_nm REAL,
        pixel_width_nm REAL,
        pixel_size_source TEXT NOT NULL,
        origin_y REAL NOT NULL,
        origin_x REAL NOT NULL,
        matrix_yy REAL NOT NULL,
        matrix_yx REAL NOT NULL,
        matrix_xy REAL NOT NULL,
        matrix_xx REAL NOT NULL,
        quality REAL NOT NULL,
        sublattice_confidence REAL NOT NULL,
        settings TEXT NOT NULL
    )""",
    # beside the images, not a column of theirs: older programs read and write the store as ever
    """CREATE TABLE IF NOT EXISTS bendings (
        image_id INTEGER PRIMARY KEY REFERENCES images (id),
        bending TEXT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS domains (
        image_id INTEGER PRIMARY KEY REFERENCES images (id),
        domains TEXT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS cells (
        image_id INTEGER NOT NULL REFERENCES images (id),
        cell_id INTEGER NOT NULL,
        state TEXT NOT NULL
            CHECK (state IN ('predicted', 'confirmed', 'corrected', 'added', 'deleted')),
        label INTEGER CHECK (label BETWEEN 0 AND 5),
        predicted INTEGER CHECK (predicted BETWEEN 0 AND 5),
        votes INTEGER NOT NULL,
        confidence REAL,
        chalcogen_y REAL, chalcogen_x REAL, metal_y REAL, metal_x REAL,
        p_0 REAL, p_1 REAL, p_2 REAL, p_3 REAL, p_4 REAL, p_5 REAL,
        weights TEXT NOT NULL,
        author TEXT NOT NULL,
        time TEXT NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (image_id, cell_id)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS hexagons (
        image_id INTEGER NOT NULL REFERENCES images (id),
        hexagon_id INTEGER NOT NULL,
        state TEXT NOT NULL
            CHECK (state IN ('predicted', 'confirmed', 'corrected', 'added', 'deleted')),
        score REAL,
        corner0_y REAL, corner0_x REAL, corner1_y REAL, corner1_x REAL,
        corner2_y REAL, corner2_x REAL, corner3_y REAL, corner3_x REAL,
        weights TEXT NOT NULL,
        author TEXT NOT NULL,
        time TEXT NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (image_id, hexagon_id)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS changes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        image_id INTEGER NOT NULL REFERENCES images (id),
        kind TEXT NOT NULL,
        item_id INTEGER,
        time TEXT NOT NULL,
        author TEXT NOT NULL,
        action TEXT NOT NULL,
        before TEXT,
        after TEXT,
        weights TEXT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS changes_of_an_item ON changes (image_id, kind, item_id)",
    """CREATE TRIGGER IF NOT EXISTS changes_stay_as_they_are BEFORE UPDATE ON changes
        BEGIN SELECT RAISE(ABORT, 'the history is only added to'); END""",
    """CREATE TRIGGER IF NOT EXISTS changes_stay BEFORE DELETE ON changes
        BEGIN SELECT RAISE(ABORT, 'the history is only added to'); END""",
)

_LATER_TABLES = {"bendings", "domains"}
"""Tables that stores of earlier versions do not have."""

ADD_CHANGE = """INSERT INTO changes
    (image_id, kind, item_id, time, author, action, before, after, weights)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""

ADD_IMAGE = """INSERT INTO images
    (sha256, name, path, signal, height, width, material, pixel_height_nm, pixel_width_nm,
     pixel_size_source, origin_y, origin_x, matrix_yy, matrix_yx, matrix_xy, matrix_xx, quality,
     sublattice_confidence, settings)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

SELECT_IMAGES = """SELECT images.*, bendings.bending, domains.domains
    FROM images LEFT JOIN bendings ON bendings.image_id = images.id
    LEFT JOIN domains ON domains.image_id = images.id
    ORDER BY images.id"""

SELECT_IMAGE = """SELECT images.*, bendings.bending, domains.domains
    FROM images LEFT JOIN bendings ON bendings.image_id = images.id
    LEFT JOIN domains ON domains.image_id = images.id
    WHERE images.sha256 = ?"""

ADD_BENDING = "INSERT INTO bendings VALUES (?, ?)"

DROP_BENDING = "DELETE FROM bendings WHERE image_id = ?"

ADD_DOMAINS = "INSERT INTO domains VALUES (?, ?)"

DROP_DOMAINS = "DELETE FROM domains WHERE image_id = ?"

SET_IMAGE = """UPDATE images SET
    sha256 = ?, name = ?, path = ?, signal = ?, height = ?, width = ?, material = ?,
    pixel_height_nm = ?, pixel_width_nm = ?, pixel_size_source = ?, origin_y = ?, origin_x = ?,
    matrix_yy = ?, matrix_yx = ?, matrix_xy = ?, matrix_xx = ?, quality = ?,
    sublattice_confidence = ?, settings = ?
    WHERE id = ?"""

SELECT_CHANGES = """SELECT kind, item_id, time, author, action, before, after, weights
    FROM changes WHERE image_id = ? ORDER BY id"""

SELECT_CHANGES_OF_CELL = """SELECT kind, item_id, time, author, action, before, after, weights
    FROM changes WHERE image_id = ? AND kind = 'cell' AND item_id = ? ORDER BY id"""

SELECT_LAST_CHANGE = """SELECT image_id, time FROM changes WHERE item_id IS NOT NULL
    ORDER BY id DESC LIMIT 1"""

COUNT_CELLS = """SELECT image_id, label, state, COUNT(*) FROM cells
    WHERE label IS NOT NULL GROUP BY image_id, label, state"""

COUNT_DECIDED = """SELECT COUNT(*) FROM cells WHERE image_id = ? AND label IS NOT NULL
    AND state IN ('confirmed', 'corrected', 'added')"""

# columns of cells and hexagons are in the order of Kind.columns, behind image_id
SELECT_ALL = {
    "cell": "SELECT * FROM cells WHERE image_id = ? ORDER BY cell_id",
    "hexagon": "SELECT * FROM hexagons WHERE image_id = ? ORDER BY hexagon_id",
}
# the ids come as a list in JSON: a statement is never put together
SELECT_SOME = {
    "cell": """SELECT * FROM cells WHERE image_id = ?
        AND cell_id IN (SELECT value FROM json_each(?))""",
    "hexagon": """SELECT * FROM hexagons WHERE image_id = ?
        AND hexagon_id IN (SELECT value FROM json_each(?))""",
}
# an existing row of another revision is left alone, and the row count tells
UPSERT = {
    "cell": """INSERT INTO cells VALUES
        (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (image_id, cell_id) DO UPDATE SET
            state = excluded.state, label = excluded.label, predicted = excluded.predicted,
            votes = excluded.votes, confidence = excluded.confidence,
            chalcogen_y = excluded.chalcogen_y, chalcogen_x = excluded.chalcogen_x,
            metal_y = excluded.metal_y, metal_x = excluded.metal_x,
            p_0 = excluded.p_0, p_1 = excluded.p_1, p_2 = excluded.p_2,
            p_3 = excluded.p_3, p_4 = excluded.p_4, p_5 = excluded.p_5,
            weights = excluded.weights, author = excluded.author, time = excluded.time,
            revision = excluded.revision
        WHERE cells.revision = ?""",
    "hexagon": """INSERT INTO hexagons VALUES
        (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (image_id, hexagon_id) DO UPDATE SET
            state = excluded.state, score = excluded.score,
            corner0_y = excluded.corner0_y, corner0_x = excluded.corner0_x,
            corner1_y = excluded.corner1_y, corner1_x = excluded.corner1_x,
            corner2_y = excluded.corner2_y, corner2_x = excluded.corner2_x,
            corner3_y = excluded.corner3_y, corner3_x = excluded.corner3_x,
            weights = excluded.weights, author = excluded.author, time = excluded.time,
            revision = excluded.revision
        WHERE hexagons.revision = ?""",
}
REMOVE = {
    "cell": "DELETE FROM cells WHERE image_id = ? AND cell_id = ? AND revision = ?",
    "hexagon": "DELETE FROM hexagons WHERE image_id = ? AND hexagon_id = ? AND revision = ?",
}


def open_database(path: Path, *, create: bool, wait_s: float) -> sqlite3.Connection:
    """Open a label database, and make its tables where it is new.

    Every commit is on the disk when it returns (WAL, ``synchronous=FULL``).

    Raises
    ------
    PointDefectsError
        If there is none and none may be made, it is something else or damaged, or a newer
        version of the program made it.
    """
    if not create and not path.is_file():
        raise PointDefectsError(
            f"{path.parent} holds no labels: give a folder with a {FILE_NAME}, or label an image "
            "in napari first"
        )
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None)
        try:
            _prepare(connection, path, wait_s)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, wait_s: float) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if tables and "meta" not in tables:
        raise PointDefectsError(f"{path} is another program's database: choose another folder")
    if tables:
        _check_version(connection, path)
    _write_ahead(connection, wait_s)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    if not tables >= {"meta", *_LATER_TABLES}:
        with transaction(connection):
            for statement in _TABLES:  # what is there stays as it is
                connection.execute(statement)
            connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),)
            )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    version = str(row[0]) if row else ""
    if not version.isdecimal():
        raise PointDefectsError(f"{path} is another program's database: choose another folder")
    if int(version) > SCHEMA_VERSION:
        raise PointDefectsError(
            f"{path} was written by a newer napari-point-defects (labels version {version}, this "
            f"program knows {SCHEMA_VERSION}): update the program"
        )


def _write_ahead(connection: sqlite3.Connection, wait_s: float) -> None:
    """Switch to a write-ahead log; SQLite does not wait by itself while another one does so."""
    end = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the disk say into one line with what to do."""
    try:
        yield
    except sqlite3.ProgrammingError:  # a defect of ours
        raise
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            advice = "another program keeps it busy: try again, or close that program"
        elif "full" in text:
            advice = "the disk is full: make room, nothing stored before is lost"
        else:
            advice = f"{text}: check the folder's permissions"
        raise PointDefectsError(f"cannot use {path}: {advice}") from error
    except sqlite3.DatabaseError as error:
        raise PointDefectsError(
            f"{path} is no label store, or is damaged ({error}): put a copy in its place, or "
            "choose another folder"
        ) from error
    except OSError as error:
        raise PointDefectsError(
            f"cannot use {path} ({error.strerror or error}): choose another folder"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """As :func:`user_errors`, and say so where rows are not as this program writes them."""
    with user_errors(path):
        try:
            yield
        except PointDefectsError:
            raise
        except NOT_OURS as error:
            raise PointDefectsError(
                f"{path} is damaged ({brief(error)}): put a copy in its place"
            ) from error


def now() -> str:
    """Return the time as the store writes it: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
