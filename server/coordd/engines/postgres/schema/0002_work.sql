-- servers: 1
-- The work queue: hooks, what they are still to be told, the chain of messages, counts. Nothing of
-- it takes the lock of coordd.store but the making of a hook, so that no send waits for it.

-- How far a job is. dispatch: the feed, with the server whose lease it is; fold: the chain, with
-- the hash of its last link.
CREATE TABLE coordd.work_jobs (
  job text PRIMARY KEY,
  position bigint NOT NULL,
  head bytea,
  holder text,
  until timestamptz
) WITH (fillfactor = 50);
INSERT INTO coordd.work_jobs (job, position) SELECT 'dispatch', position FROM coordd.store;
INSERT INTO coordd.work_jobs (job, position, head) VALUES ('fold', 0, decode(repeat('00', 32), 'hex'));

-- since: events of this position and before are not for it. min_rank: a priority's rank, 0 is
-- critical. failures: calls that failed since the last that did not.
CREATE TABLE coordd.work_hooks (
  id text COLLATE "C" PRIMARY KEY,
  kind text NOT NULL,
  target text NOT NULL,
  secret text NOT NULL,
  created_at text NOT NULL,
  since bigint NOT NULL,
  to_agent text COLLATE "C",
  types text[] NOT NULL,
  min_rank smallint,
  failures integer NOT NULL DEFAULT 0,
  rest_until timestamptz,
  done bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- What a hook is still to be told. occurrence: JSON. state: 0 waits, is due at `at`; 1 queued, taken
-- for lost at `at`; 2 dead since `at`. busy: until when it is left to the worker that has begun it.
CREATE TABLE coordd.work_tasks (
  hook text COLLATE "C" NOT NULL REFERENCES coordd.work_hooks ON DELETE CASCADE,
  event text COLLATE "C" NOT NULL,
  occurrence text NOT NULL,
  state smallint NOT NULL DEFAULT 0,
  tries integer NOT NULL DEFAULT 0,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  busy timestamptz,
  error text NOT NULL DEFAULT '',
  PRIMARY KEY (hook, event)
);
CREATE INDEX work_tasks_due ON coordd.work_tasks (hook, at) WHERE state = 0;
CREATE INDEX work_tasks_queued ON coordd.work_tasks (hook, at) WHERE state = 1;
CREATE INDEX work_tasks_dead ON coordd.work_tasks (at) WHERE state = 2;

-- The chain: see coordd/work/chain.py.
CREATE TABLE coordd.work_chain (
  pos bigint PRIMARY KEY,
  message_id text COLLATE "C" NOT NULL,
  digest bytea NOT NULL,
  hash bytea NOT NULL
);

-- Messages an hour, UTC.
CREATE TABLE coordd.work_hours (
  hour text COLLATE "C" PRIMARY KEY,
  messages bigint NOT NULL
);
