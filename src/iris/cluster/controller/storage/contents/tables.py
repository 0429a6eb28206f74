"""The tables that count the stored bytes of each user, and the SQL statements that change these tables.

The contents of a job are its entry point, its workspace, its inputs and its results. The table `contents` has a row for
each job whose contents are stored. Triggers in the database keep the sum for each user in `user_bytes`. A trigger runs
in the transaction that changes the contents. Therefore the sums are exact after each commit, and no other code computes
them.

A workspace counts once for each user whose jobs use the workspace. A result counts as soon as it is stored. The
environment is a part of the entry point.
"""

from __future__ import annotations

import sqlite3

from iris.rpc import cluster_pb2

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest

# The database migration (schema.py) that creates the tables of stored bytes.
CONTENTS_SCHEMA = """
CREATE TABLE contents (                        -- the jobs whose contents are stored
    number INTEGER PRIMARY KEY,                -- the number of the job
    owner TEXT NOT NULL,
    finished_at_ms INTEGER NOT NULL,           -- 0 until the end of the job is saved
    bundle_hash TEXT NOT NULL,                 -- of the workspace; empty without a workspace
    bytes INTEGER NOT NULL                     -- of the entry point and the results
);
CREATE INDEX contents_by_end ON contents (owner, finished_at_ms, number);
CREATE TABLE bundle_uses (
    bundle_hash TEXT NOT NULL,
    owner TEXT NOT NULL,
    jobs INTEGER NOT NULL,                     -- how many rows of contents have this owner and this workspace
    live INTEGER NOT NULL,                     -- how many of these jobs have not ended
    PRIMARY KEY (bundle_hash, owner)
) WITHOUT ROWID;
CREATE TABLE user_bytes (
    owner TEXT PRIMARY KEY,
    total INTEGER NOT NULL,                    -- the bytes of all contents of the user's jobs
    live INTEGER NOT NULL                      -- the part of these bytes that jobs use which have not ended
) WITHOUT ROWID;
CREATE TABLE removed_jobs (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    rounds INTEGER NOT NULL                    -- the largest number of gangs that any removed job has had
);
INSERT INTO removed_jobs VALUES (1, 0);
CREATE TRIGGER contents_added AFTER INSERT ON contents BEGIN
    INSERT INTO user_bytes VALUES (NEW.owner, 0, 0) ON CONFLICT DO NOTHING;
    UPDATE user_bytes SET total = total + NEW.bytes, live = live + (NEW.finished_at_ms = 0) * NEW.bytes
        WHERE owner = NEW.owner;
    INSERT INTO bundle_uses SELECT NEW.bundle_hash, NEW.owner, 0, 0 WHERE NEW.bundle_hash != '' ON CONFLICT DO NOTHING;
    UPDATE bundle_uses SET jobs = jobs + 1, live = live + (NEW.finished_at_ms = 0)
        WHERE bundle_hash = NEW.bundle_hash AND owner = NEW.owner;
END;
CREATE TRIGGER contents_changed AFTER UPDATE ON contents BEGIN
    UPDATE user_bytes SET
        total = total + NEW.bytes - OLD.bytes,
        live = live + (NEW.finished_at_ms = 0) * NEW.bytes - (OLD.finished_at_ms = 0) * OLD.bytes
        WHERE owner = NEW.owner;
    UPDATE bundle_uses SET live = live + (NEW.finished_at_ms = 0) - (OLD.finished_at_ms = 0)
        WHERE bundle_hash = NEW.bundle_hash AND owner = NEW.owner AND NEW.finished_at_ms != OLD.finished_at_ms;
END;
CREATE TRIGGER contents_removed AFTER DELETE ON contents BEGIN
    UPDATE user_bytes SET total = total - OLD.bytes, live = live - (OLD.finished_at_ms = 0) * OLD.bytes
        WHERE owner = OLD.owner;
    UPDATE bundle_uses SET jobs = jobs - 1, live = live - (OLD.finished_at_ms = 0)
        WHERE bundle_hash = OLD.bundle_hash AND owner = OLD.owner;
END;
CREATE TRIGGER bundle_use_changed AFTER UPDATE ON bundle_uses BEGIN
    UPDATE user_bytes SET
        total = total + ((NEW.jobs > 0) - (OLD.jobs > 0))
            * coalesce((SELECT length(blob) FROM bundles WHERE hash = NEW.bundle_hash), 0),
        live = live + ((NEW.live > 0) - (OLD.live > 0))
            * coalesce((SELECT length(blob) FROM bundles WHERE hash = NEW.bundle_hash), 0)
        WHERE owner = NEW.owner;
    DELETE FROM bundle_uses WHERE bundle_hash = NEW.bundle_hash AND owner = NEW.owner AND jobs = 0;
END;
CREATE TRIGGER job_ended AFTER UPDATE OF state ON jobs WHEN NEW.state != OLD.state BEGIN
    UPDATE contents SET finished_at_ms = max(NEW.finished_at_ms, 1) WHERE number = NEW.number;
END;
CREATE TRIGGER result_replaced BEFORE INSERT ON results BEGIN
    UPDATE contents SET bytes = bytes - (
            SELECT length(value) FROM results WHERE job_id = NEW.job_id AND task_index = NEW.task_index
        )
        WHERE number = (SELECT number FROM jobs WHERE job_id = NEW.job_id)
        AND EXISTS (SELECT 1 FROM results WHERE job_id = NEW.job_id AND task_index = NEW.task_index);
END;
CREATE TRIGGER result_added AFTER INSERT ON results BEGIN
    UPDATE contents SET bytes = bytes + length(NEW.value)
        WHERE number = (SELECT number FROM jobs WHERE job_id = NEW.job_id);
END;
"""
# The database migration that creates the table of inputs. The inputs of a job are removed with its entry point, and
# count as contents of the job.
INPUTS_SCHEMA = """
CREATE TABLE inputs (                          -- the inputs of the tasks of a job (cluster/task_inputs.py)
    number INTEGER PRIMARY KEY,                -- the number of the job
    hash TEXT NOT NULL,
    blob BLOB NOT NULL
);
CREATE INDEX inputs_by_hash ON inputs (hash);
CREATE TRIGGER inputs_added AFTER INSERT ON inputs BEGIN
    UPDATE contents SET bytes = bytes + length(NEW.blob) WHERE number = NEW.number;
END;
CREATE TRIGGER inputs_removed AFTER DELETE ON entry_points BEGIN
    DELETE FROM inputs WHERE number = OLD.number;
END;
"""
# Adds the inputs of a job. The statement must follow the one that adds the job's contents, so that
# `last_insert_rowid()` is the number of the job.
ADD_INPUTS = "INSERT INTO inputs VALUES (last_insert_rowid(), ?, ?)"
# Adds the row of contents of the job that was inserted last. The statement must follow the one that inserts the job's
# entry point. The argument is the hash of the job's workspace.
ADD_CONTENTS = (
    "INSERT INTO contents SELECT jobs.number, owner, iif(state, max(finished_at_ms, 1), 0), ?,"
    " coalesce((SELECT length(entry_points.launch) FROM entry_points WHERE entry_points.number = jobs.number), 0)"
    " + coalesce((SELECT sum(length(value)) FROM results WHERE results.job_id = jobs.job_id), 0)"
    " FROM jobs WHERE jobs.number = last_insert_rowid()"
)
# The database migration (schema.py) that creates the table of removals.
REMOVALS_SCHEMA = """
CREATE TABLE removals (                        -- the answers to the newest requests that have removed jobs
    number INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    job_ids TEXT NOT NULL                      -- the removed jobs, as a JSON list
);
"""
ADD_REMOVAL = "INSERT INTO removals (request_id, job_ids) VALUES (?, ?)"
DROP_REMOVALS = "DELETE FROM removals WHERE number <= (SELECT max(number) FROM removals) - ?"
# The statements that drop the contents of a job. The only argument of each statement is the number of the job.
DROP_CONTENTS = (
    # The row in `contents` is deleted first, because its trigger subtracts the bytes of the whole job.
    "DELETE FROM contents WHERE number=?",
    "DELETE FROM results WHERE job_id=(SELECT job_id FROM jobs WHERE number=?)",
    "DELETE FROM entry_points WHERE number=?",
)
REMOVE_JOB = (*DROP_CONTENTS, "DELETE FROM jobs WHERE number=?")
RAISE_ROUNDS = "UPDATE removed_jobs SET rounds=max(rounds, ?)"
REMOVE_BUNDLE = (
    "DELETE FROM bundles WHERE hash=?1 AND NOT EXISTS (SELECT 1 FROM bundle_uses WHERE bundle_uses.bundle_hash=?1)"
)


def fill_contents(db: sqlite3.Connection) -> None:
    """Add a row of the table `contents` for each job in a database that an older version has written."""
    for number, launch in db.execute("SELECT number, launch FROM jobs").fetchall():
        bundle_hash = LaunchJobRequest.FromString(launch).bundle_hash
        statement = ADD_CONTENTS.replace("last_insert_rowid()", "?")
        db.execute(statement, (bundle_hash, number))
