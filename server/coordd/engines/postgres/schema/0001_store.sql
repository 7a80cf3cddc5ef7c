-- servers: 1
-- The store: tables, and the functions that write to them.
--
-- Every write takes the lock of the one row of coordd.store first and holds it to its commit. So
-- commits have one order, over all servers, and all numbers are given in it: positions of events
-- without a gap, seqs of an inbox, versions. What a reader sees at position p, it sees with all
-- that is below p. A write is one statement, so that no lock waits for a client.
--
-- Names and ids compare by byte (COLLATE "C"), as everywhere else.

CREATE TABLE coordd.store (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  id text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
  position bigint NOT NULL DEFAULT 0,      -- of the newest event or registry entry
  epoch bigint NOT NULL DEFAULT 0,         -- the highest one seen
  sealed boolean NOT NULL DEFAULT false,
  messages bigint NOT NULL DEFAULT 0,      -- deliveries that are not deleted or expired
  unread bigint NOT NULL DEFAULT 0,
  sent bigint NOT NULL DEFAULT 0,          -- events by type, ever
  read bigint NOT NULL DEFAULT 0,
  acked bigint NOT NULL DEFAULT 0,
  deleted bigint NOT NULL DEFAULT 0,
  expired bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
INSERT INTO coordd.store DEFAULT VALUES;

-- What /ready writes, to show that a commit is possible.
CREATE TABLE coordd.proof (singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton), at timestamptz NOT NULL);

-- An agent's counts. version: see coordd.store.Store.version; next_expiry: not after the first
-- expiry of a message in the inbox.
CREATE TABLE coordd.inboxes (
  agent text COLLATE "C" PRIMARY KEY,
  last_seq bigint NOT NULL DEFAULT 0,
  received bigint NOT NULL DEFAULT 0,
  sent bigint NOT NULL DEFAULT 0,
  unread bigint NOT NULL DEFAULT 0,
  version bigint NOT NULL DEFAULT 0,
  next_expiry timestamptz
) WITH (fillfactor = 50);

-- pos: the position of the last of its `deliveries` SENT events, which follow each other.
-- body: NULL once it was given back. gone_at: when it was, all deliveries being gone. archive: the
-- number of the file that it was written to before. thread_id: NULL where it is the own id.
-- created_at, expires_at: the texts as they were given. priority: its rank, 0 is critical.
CREATE TABLE coordd.messages (
  pos bigint PRIMARY KEY,
  id text COLLATE "C" NOT NULL,
  from_agent text COLLATE "C" NOT NULL,
  subject text NOT NULL,
  body text,
  created_at text NOT NULL,
  thread_id text COLLATE "C",
  in_reply_to text COLLATE "C",
  expires_at text,
  deliveries integer NOT NULL,
  archive integer,
  priority smallint NOT NULL,
  gone_at timestamptz
);
CREATE UNIQUE INDEX messages_id ON coordd.messages (id);
CREATE INDEX messages_thread ON coordd.messages (thread_id, pos) WHERE thread_id IS NOT NULL;
CREATE INDEX messages_gone ON coordd.messages (gone_at) WHERE gone_at IS NOT NULL;

-- A message in one inbox. pos: of its SENT event; message: the message's pos.
-- state: 0 unread, 1 read, 2 acknowledged, 3 deleted, 4 expired, 5 gone, its event still to be
-- imported.
CREATE TABLE coordd.deliveries (
  pos bigint PRIMARY KEY,
  message bigint NOT NULL,
  seq bigint NOT NULL,
  expires timestamptz,
  state smallint NOT NULL DEFAULT 0,
  priority smallint NOT NULL,
  to_agent text COLLATE "C" NOT NULL,
  read_at text,
  acked_at text
) WITH (fillfactor = 90);
-- One index for the inbox and for what is unread in it: pages merge the states' runs by seq.
CREATE INDEX deliveries_inbox ON coordd.deliveries (to_agent, state, seq);
CREATE INDEX deliveries_expiry ON coordd.deliveries (expires) WHERE expires IS NOT NULL AND state < 3;

-- The audit log. type: 1 EXPIRED, 2 DELETED, 3 ACKED, 4 READ, 5 SENT (the most frequent one is the
-- highest, so that its index entries are added at the index's end). at_text: the time's text where
-- it is not the one that this server writes.
CREATE TABLE coordd.events (
  pos bigint NOT NULL,
  at timestamptz NOT NULL,
  seq bigint NOT NULL,
  type smallint NOT NULL,
  message_id text COLLATE "C" NOT NULL,
  from_agent text COLLATE "C" NOT NULL,
  to_agent text COLLATE "C" NOT NULL,
  subject text NOT NULL,
  at_text text
) PARTITION BY RANGE (at);
-- A condition that always holds keeps this index out of the plans for one agent, who may have none
-- among millions.
CREATE INDEX events_type ON coordd.events (type, pos) WHERE pos > 0;
CREATE INDEX events_from ON coordd.events (from_agent, type, pos);
CREATE INDEX events_to ON coordd.events (to_agent, type, pos);
CREATE TABLE coordd.events_other PARTITION OF coordd.events DEFAULT;

-- Idempotency keys. pos: of the first of the `count` messages of the request.
CREATE TABLE coordd.claims (
  sender text COLLATE "C",
  key text COLLATE "C",
  digest text NOT NULL,
  count integer NOT NULL,
  pos bigint NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (sender, key)
);
CREATE INDEX claims_pos ON coordd.claims (pos);

-- Agents, groups and tokens as they are; entry: JSON. first_pos: when it was made.
CREATE TABLE coordd.registry (
  kind text,
  name text COLLATE "C",
  first_pos bigint NOT NULL,
  entry text NOT NULL,
  PRIMARY KEY (kind, name)
);
-- ... and as they were, for the feed.
CREATE TABLE coordd.registry_log (
  pos bigint PRIMARY KEY,
  kind text NOT NULL,
  name text COLLATE "C" NOT NULL,
  at text NOT NULL,
  entry text NOT NULL
);
CREATE VIEW coordd.agents AS SELECT name, entry::json FROM coordd.registry WHERE kind = 'agent';
CREATE VIEW coordd.groups AS SELECT name, entry::json FROM coordd.registry WHERE kind = 'group';
CREATE VIEW coordd.tokens AS SELECT name, entry::json FROM coordd.registry WHERE kind = 'token';

-- Text search: which groups of three characters the messages with first <= pos <= last have. first
-- is where the deliveries of the first of them begin.
CREATE TABLE coordd.search_blocks (
  last bigint PRIMARY KEY,
  first bigint NOT NULL,
  grams integer[] NOT NULL
);
CREATE INDEX search_blocks_grams ON coordd.search_blocks USING gin (grams) WITH (fastupdate = off);

-- The files that gone messages were written to.
CREATE TABLE coordd.archives (
  number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE,
  messages integer NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now()
);
-- Where forgotten messages are, if they are to be found still.
CREATE TABLE coordd.archived (
  id text COLLATE "C" PRIMARY KEY,
  archive integer NOT NULL
);

-- How far upkeep is, a row a job, and whose turn it is: see upkeep.py.
CREATE TABLE coordd.upkeep (
  job text PRIMARY KEY,
  position bigint NOT NULL DEFAULT 0,
  at timestamptz,
  holder text
);

-- The texts that this server writes: RFC 3339, UTC, microseconds, Z.
CREATE FUNCTION coordd.time_text(moment timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- A version that no inbox had before: the position makes it new, and the random part other than
-- that of the same position in a past that a restored backup has undone.
CREATE FUNCTION coordd.version_at(pos bigint) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN (pos << 20) | floor(random() * 1048576)::bigint;

-- Make the partitions of the events from one month to another, each given by a moment in it.
CREATE FUNCTION coordd.make_partitions(p_from timestamptz, p_to timestamptz) RETURNS integer
LANGUAGE plpgsql SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
  v_month timestamptz := date_trunc('month', p_from);
  v_name text;
  v_made integer := 0;
BEGIN
  WHILE v_month <= p_to LOOP
    v_name := 'events_' || to_char(v_month, 'YYYY_MM');
    IF to_regclass('coordd.' || v_name) IS NULL THEN
      -- Not two at once; the other one may have made it, which to_regclass would not see here.
      PERFORM pg_advisory_xact_lock(hashtext('coordd partitions'));
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class
                    WHERE relname = v_name AND relnamespace = 'coordd'::regnamespace) THEN
      EXECUTE format('CREATE TABLE coordd.%I (LIKE coordd.events)', v_name);
      -- Events of that month that came before there was a place for them.
      EXECUTE format('WITH moved AS (DELETE FROM coordd.events_other WHERE at >= %L AND at < %L '
                     'RETURNING *) INSERT INTO coordd.%I SELECT * FROM moved',
                     v_month, v_month + interval '1 month', v_name);
      EXECUTE format('ALTER TABLE coordd.events ATTACH PARTITION coordd.%I '
                     'FOR VALUES FROM (%L) TO (%L)',
                     v_name, v_month, v_month + interval '1 month');
      v_made := v_made + 1;
    END IF;
    v_month := v_month + interval '1 month';
  END LOOP;
  RETURN v_made;
END $$;
SELECT coordd.make_partitions(now(), now() + interval '2 months');

-- Statements are planned once a connection, for any values: planning a page anew would take longer
-- than reading it. The role's, so that it holds behind a pooler too.
ALTER ROLE CURRENT_USER SET plan_cache_mode = force_generic_plan;
-- Compiling a plan that is estimated high takes longer than its rows.
ALTER ROLE CURRENT_USER SET jit = off;

-- Store messages, all or none. Answers the time, the position before the first event, and the
-- last seqs before of the agents of p_agents, in their order. Where claims are known it stores
-- nothing and answers their places in p_claim_keys.
--
-- p_agents: the distinct senders and recipients, ordered; p_received, p_sent: their counts here.
-- Messages: p_ids to p_ends, the last being the number of deliveries up to and with the message's.
-- Deliveries: p_to, its place in p_agents, and how many before it here went to the same inbox, plus
-- one; p_to_…: its message's columns again, NULL where each message has one delivery (no join, whose
-- plan could only guess how many there are). Claims: p_claim_ends is p_ends of the first message.
-- NULL arrays stand for NULL in every row.
CREATE FUNCTION coordd.send_1(
  p_shift_us bigint, p_notice text,
  p_agents text[], p_received integer[], p_sent integer[],
  p_ids text[], p_senders text[], p_subjects text[], p_bodies text[], p_priorities smallint[],
  p_threads text[], p_replies text[], p_expires text[], p_expires_us bigint[], p_counts integer[],
  p_ends integer[],
  p_to text[], p_agent_numbers integer[], p_nths integer[],
  p_to_ids text[], p_to_senders text[], p_to_subjects text[], p_to_priorities smallint[],
  p_to_expires_us bigint[], p_to_ends integer[],
  p_claim_senders text[], p_claim_keys text[], p_claim_digests text[], p_claim_counts integer[],
  p_claim_ends integer[],
  OUT o_at text, OUT o_position bigint, OUT o_last_seqs text, OUT o_known integer[]
) LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
DECLARE
  v_now timestamptz;
  v_sealed boolean;
  v_count integer := cardinality(p_to);
  v_version bigint;
  v_last_seqs bigint[];
  v_soonest bigint;
BEGIN
  SELECT position, sealed INTO o_position, v_sealed FROM coordd.store FOR UPDATE;
  v_now := clock_timestamp() + p_shift_us * interval '1 microsecond';
  IF p_claim_keys IS NOT NULL THEN
    SELECT array_agg(given.number) INTO o_known
      FROM unnest(p_claim_senders, p_claim_keys) WITH ORDINALITY AS given (sender, key, number)
      JOIN coordd.claims AS known USING (sender, key)
     WHERE known.at > v_now - interval '1 day';
    IF o_known IS NOT NULL THEN RETURN; END IF;
  END IF;
  IF v_sealed THEN RAISE EXCEPTION 'the store is sealed' USING ERRCODE = 'CD001'; END IF;
  o_at := coordd.time_text(v_now);
  v_version := coordd.version_at(o_position + v_count);
  UPDATE coordd.store SET position = position + v_count, messages = messages + v_count,
         unread = unread + v_count, sent = sent + v_count;
  WITH counted AS (
    INSERT INTO coordd.inboxes AS inbox (agent, last_seq, received, sent, unread, version)
    SELECT given.agent, given.received, given.received, given.sent, given.received,
           CASE WHEN given.received > 0 THEN v_version ELSE 0 END
      FROM unnest(p_agents, p_received, p_sent) AS given (agent, received, sent)
    ON CONFLICT (agent) DO UPDATE SET
      last_seq = inbox.last_seq + excluded.received,
      received = inbox.received + excluded.received,
      sent = inbox.sent + excluded.sent,
      unread = inbox.unread + excluded.received,
      version = CASE WHEN excluded.received > 0 THEN excluded.version ELSE inbox.version END
    RETURNING agent, last_seq)
  SELECT array_agg(counted.last_seq - given.received ORDER BY given.number)
    INTO v_last_seqs
    FROM unnest(p_agents, p_received) WITH ORDINALITY AS given (agent, received, number)
    JOIN counted USING (agent);
  o_last_seqs := array_to_string(v_last_seqs, ',');
  IF p_to_ids IS NULL THEN
    -- One delivery a message.
    WITH message AS MATERIALIZED (
      SELECT o_position + given.number AS pos, v_last_seqs[given.agent] + given.nth AS seq, given.*
        FROM unnest(p_ids, p_senders, p_subjects, p_bodies, p_priorities, p_threads, p_replies,
                    p_expires, p_expires_us, p_to, p_agent_numbers, p_nths)
             WITH ORDINALITY AS given (id, sender, subject, body, priority, thread, reply, expires,
                                       expires_us, name, agent, nth, number)
    ), stored AS (
      INSERT INTO coordd.messages (pos, id, from_agent, subject, body, created_at, thread_id,
                                   in_reply_to, expires_at, deliveries, priority)
      SELECT pos, id, sender, subject, body, o_at, thread, reply, expires, 1, priority FROM message
    ), delivered AS (
      INSERT INTO coordd.deliveries (pos, message, seq, expires, priority, to_agent)
      SELECT pos, pos, seq, timestamptz 'epoch' + expires_us * interval '1 microsecond', priority,
             name FROM message)
    INSERT INTO coordd.events (pos, at, seq, type, message_id, from_agent, to_agent, subject)
    SELECT pos, v_now, seq, 5, id, sender, name, subject FROM message;
  ELSE
    INSERT INTO coordd.messages (pos, id, from_agent, subject, body, created_at, thread_id,
                                 in_reply_to, expires_at, deliveries, priority)
    SELECT o_position + ends, id, sender, subject, body, o_at, thread, reply, expires, deliveries,
           priority
      FROM unnest(p_ids, p_senders, p_subjects, p_bodies, p_priorities, p_threads, p_replies,
                  p_expires, p_counts, p_ends)
        AS given (id, sender, subject, body, priority, thread, reply, expires, deliveries, ends);
    WITH delivery AS MATERIALIZED (
      SELECT o_position + given.number AS pos, v_last_seqs[given.agent] + given.nth AS seq, given.*
        FROM unnest(p_to, p_agent_numbers, p_nths, p_to_ids, p_to_senders, p_to_subjects,
                    p_to_priorities, p_to_expires_us, p_to_ends)
             WITH ORDINALITY AS given (name, agent, nth, id, sender, subject, priority, expires_us,
                                       ends, number)
    ), delivered AS (
      INSERT INTO coordd.deliveries (pos, message, seq, expires, priority, to_agent)
      SELECT pos, o_position + ends, seq,
             timestamptz 'epoch' + expires_us * interval '1 microsecond', priority, name
        FROM delivery)
    INSERT INTO coordd.events (pos, at, seq, type, message_id, from_agent, to_agent, subject)
    SELECT pos, v_now, seq, 5, id, sender, name, subject FROM delivery;
  END IF;
  IF p_expires_us IS NOT NULL THEN
    UPDATE coordd.inboxes AS inbox SET next_expiry = least(inbox.next_expiry, soonest.expires)
      FROM (SELECT to_agent, min(expires) AS expires FROM coordd.deliveries
             WHERE pos > o_position AND expires IS NOT NULL GROUP BY to_agent) AS soonest
     WHERE inbox.agent = soonest.to_agent;
  END IF;
  IF p_claim_keys IS NOT NULL THEN
    INSERT INTO coordd.claims (sender, key, digest, count, pos, at)
    SELECT given.sender, given.key, given.digest, given.count, o_position + given.ends, v_now
      FROM unnest(p_claim_senders, p_claim_keys, p_claim_digests, p_claim_counts, p_claim_ends)
        AS given (sender, key, digest, count, ends)
    ON CONFLICT (sender, key) DO UPDATE SET digest = excluded.digest, count = excluded.count,
      pos = excluded.pos, at = excluded.at;
  END IF;
  IF p_notice IS NOT NULL THEN PERFORM pg_notify('coordd', p_notice); END IF;
END $$;

-- Change the state of one delivery that is there, the lock being held: its event, at p_position.
-- Answers whether it was unread. Then coordd._count has to be told of all that was changed.
CREATE FUNCTION coordd._change(p_position bigint, p_pos bigint, p_type smallint, p_now timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  v_old coordd.deliveries;
BEGIN
  SELECT * INTO v_old FROM coordd.deliveries WHERE pos = p_pos;
  UPDATE coordd.deliveries SET
    read_at = CASE WHEN p_type = 4 THEN coordd.time_text(p_now) ELSE read_at END,
    acked_at = CASE WHEN p_type = 3 THEN coordd.time_text(p_now) ELSE acked_at END,
    state = CASE p_type WHEN 4 THEN greatest(state, 1) WHEN 3 THEN 2 WHEN 2 THEN 3 ELSE 4 END
   WHERE pos = p_pos;
  INSERT INTO coordd.events (pos, at, seq, type, message_id, from_agent, to_agent, subject)
  SELECT p_position, p_now, v_old.seq, p_type, id, from_agent, v_old.to_agent, subject
    FROM coordd.messages WHERE pos = v_old.message;
  RETURN v_old.state = 0;
END $$;

-- Count changes of state: the events' types, the deliveries' inboxes, and whether each was unread.
-- Once a transaction: each update of a row would leave a version that the next one has to pass.
CREATE FUNCTION coordd._count(p_types smallint[], p_agents text[], p_unread boolean[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_position bigint;
BEGIN
  UPDATE coordd.store AS store SET
    position = position + counted.every, unread = store.unread - counted.unread,
    messages = messages - counted.gone, read = store.read + counted.read,
    acked = store.acked + counted.acked, deleted = store.deleted + counted.deleted,
    expired = store.expired + counted.expired
    FROM (SELECT count(*) AS every, count(*) FILTER (WHERE unread) AS unread,
                 count(*) FILTER (WHERE type < 3) AS gone, count(*) FILTER (WHERE type = 4) AS read,
                 count(*) FILTER (WHERE type = 3) AS acked,
                 count(*) FILTER (WHERE type = 2) AS deleted,
                 count(*) FILTER (WHERE type = 1) AS expired
            FROM unnest(p_types, p_unread) AS given (type, unread)) AS counted
  RETURNING position INTO v_position;
  UPDATE coordd.inboxes AS inbox
     SET version = coordd.version_at(v_position), unread = inbox.unread - counted.unread
    FROM (SELECT agent, count(*) FILTER (WHERE unread) AS unread
            FROM unnest(p_agents, p_unread) AS given (agent, unread) GROUP BY agent) AS counted
   WHERE inbox.agent = counted.agent;
END $$;

-- Set the states of deliveries, each once. A row a mark, in their order: the message as it is then,
-- `gone` where it is deleted and that was asked for, nothing but the number where there is none.
CREATE FUNCTION coordd.mark_1(p_shift_us bigint, p_ids text[], p_agents text[], p_types smallint[])
RETURNS TABLE (number integer, gone boolean, id text, seq bigint, from_agent text, to_agent text,
               subject text, body text, priority smallint, thread_id text, in_reply_to text,
               created_at text, expires_at text, state smallint, read_at text, acked_at text)
LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz;
  v_sealed boolean;
  v_position bigint;
  v_delivery record;
  v_types smallint[] := '{}';
  v_agents text[] := '{}';
  v_unread boolean[] := '{}';
BEGIN
  SELECT sealed, position INTO v_sealed, v_position FROM coordd.store FOR UPDATE;
  v_now := clock_timestamp() + p_shift_us * interval '1 microsecond';
  FOR i IN 1 .. cardinality(p_ids) LOOP
    SELECT delivery.* INTO v_delivery
      FROM coordd.messages AS message
      JOIN coordd.deliveries AS delivery
        ON delivery.pos > message.pos - message.deliveries AND delivery.pos <= message.pos
     WHERE message.id = p_ids[i] AND delivery.to_agent = p_agents[i];
    IF NOT FOUND OR v_delivery.state > 3 OR (v_delivery.state = 3 AND p_types[i] <> 2)
       OR (v_delivery.state < 3 AND v_delivery.expires <= v_now) THEN
      RETURN QUERY SELECT i, false, NULL, 0::bigint, NULL, NULL, NULL, NULL, 0::smallint, NULL,
                          NULL, NULL, NULL, 0::smallint, NULL, NULL;
      CONTINUE;
    END IF;
    IF (p_types[i] = 4 AND v_delivery.read_at IS NULL)
       OR (p_types[i] = 3 AND v_delivery.acked_at IS NULL)
       OR (p_types[i] = 2 AND v_delivery.state < 3) THEN
      IF v_sealed THEN RAISE EXCEPTION 'the store is sealed' USING ERRCODE = 'CD001'; END IF;
      v_types := v_types || p_types[i];
      v_agents := v_agents || p_agents[i];
      v_unread := v_unread || coordd._change(v_position + cardinality(v_types), v_delivery.pos,
                                             p_types[i], v_now);
    END IF;
    RETURN QUERY
    SELECT i, p_types[i] = 2, message.id, delivery.seq, message.from_agent, delivery.to_agent,
           message.subject, message.body, message.priority, message.thread_id,
           message.in_reply_to, message.created_at, message.expires_at, delivery.state,
           delivery.read_at, delivery.acked_at
      FROM coordd.deliveries AS delivery
      JOIN coordd.messages AS message ON message.pos = delivery.message
     WHERE delivery.pos = v_delivery.pos;
  END LOOP;
  IF cardinality(v_types) > 0 THEN
    PERFORM coordd._count(v_types, v_agents, v_unread);
  END IF;
END $$;

-- Record what has expired, at most p_limit deliveries; answers how many. None while sealed.
CREATE FUNCTION coordd.expire_1(p_shift_us bigint, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
DECLARE
  v_now timestamptz := now() + p_shift_us * interval '1 microsecond';
  v_pos bigint;
  v_position bigint;
  v_agent text;
  v_agents text[] := '{}';
  v_unread boolean[] := '{}';
BEGIN
  PERFORM 1 FROM coordd.deliveries WHERE expires <= v_now AND expires IS NOT NULL AND state < 3
    LIMIT 1;
  IF NOT FOUND THEN RETURN 0; END IF;
  SELECT position INTO v_position FROM coordd.store WHERE NOT sealed FOR UPDATE;
  IF NOT FOUND THEN RETURN 0; END IF;
  FOR v_pos, v_agent IN
    SELECT pos, to_agent FROM coordd.deliveries
     WHERE expires <= v_now AND expires IS NOT NULL AND state < 3
     ORDER BY expires, pos LIMIT p_limit
  LOOP
    v_agents := v_agents || v_agent;
    v_unread := v_unread || coordd._change(v_position + cardinality(v_agents), v_pos, 1::smallint,
                                           v_now);
  END LOOP;
  IF cardinality(v_agents) = 0 THEN RETURN 0; END IF;
  PERFORM coordd._count(array_fill(1::smallint, ARRAY[cardinality(v_agents)]), v_agents, v_unread);
  UPDATE coordd.inboxes AS inbox SET next_expiry = (
    SELECT min(expires) FROM coordd.deliveries AS delivery
     WHERE delivery.to_agent = inbox.agent AND expires IS NOT NULL AND state < 3)
   WHERE agent = ANY (v_agents);
  RETURN cardinality(v_agents);
END $$;

-- Write a registry entry. The entry of p_entry gets its created_at and updated_at where p_stamped.
CREATE FUNCTION coordd.put_1(p_shift_us bigint, p_kind text, p_name text, p_entry json,
                             p_stamped boolean)
RETURNS text LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
DECLARE
  v_sealed boolean;
  v_position bigint;
  v_at text;
  v_made text;
  v_entry text;
BEGIN
  SELECT sealed, position + 1 INTO v_sealed, v_position FROM coordd.store FOR UPDATE;
  IF v_sealed THEN RAISE EXCEPTION 'the store is sealed' USING ERRCODE = 'CD001'; END IF;
  v_at := coordd.time_text(clock_timestamp() + p_shift_us * interval '1 microsecond');
  v_entry := p_entry::text;
  IF p_stamped THEN
    SELECT entry::json ->> 'created_at' INTO v_made FROM coordd.registry
     WHERE kind = p_kind AND name = p_name;
    v_entry := (p_entry::jsonb || jsonb_build_object('created_at', coalesce(v_made, v_at),
                                                     'updated_at', v_at))::text;
  END IF;
  INSERT INTO coordd.registry (kind, name, first_pos, entry)
  VALUES (p_kind, p_name, v_position, v_entry)
  ON CONFLICT (kind, name) DO UPDATE SET entry = excluded.entry;
  INSERT INTO coordd.registry_log (pos, kind, name, at, entry)
  VALUES (v_position, p_kind, p_name, v_at, v_entry);
  UPDATE coordd.store SET position = v_position;
  RETURN v_entry;
END $$;

-- Seal the store or unseal it; answers the position of the newest change.
CREATE FUNCTION coordd.seal_1(p_epoch bigint, p_sealed boolean) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
DECLARE
  v_epoch bigint;
  v_position bigint;
BEGIN
  SELECT epoch, position INTO v_epoch, v_position FROM coordd.store FOR UPDATE;
  IF p_epoch < v_epoch THEN
    RAISE EXCEPTION 'epoch % is over: the store has seen %', p_epoch, v_epoch
      USING ERRCODE = 'CD002';
  END IF;
  UPDATE coordd.store SET epoch = p_epoch, sealed = p_sealed;
  RETURN v_position;
END $$;

-- A real write, durable and without a trace.
CREATE FUNCTION coordd.prove_1() RETURNS void
LANGUAGE plpgsql SET lock_timeout = '3s' AS $$
BEGIN
  PERFORM 1 FROM coordd.store WHERE NOT sealed FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'the store is sealed' USING ERRCODE = 'CD001'; END IF;
  INSERT INTO coordd.proof (at) VALUES (now()) ON CONFLICT (singleton) DO UPDATE SET at = excluded.at;
END $$;

-- Upkeep. Each step is small, may be cut off anywhere and be done by two at once.

-- Take or keep the turn of doing it, for some seconds; whether it is p_holder's.
CREATE FUNCTION coordd.take_turn_1(p_holder text, p_seconds double precision) RETURNS boolean
LANGUAGE sql AS $$
WITH taken AS (
  INSERT INTO coordd.upkeep AS turn (job, holder, at)
  VALUES ('turn', p_holder, clock_timestamp() + make_interval(secs => p_seconds))
  ON CONFLICT (job) DO UPDATE SET holder = excluded.holder, at = excluded.at
   WHERE turn.holder = excluded.holder OR turn.at < clock_timestamp()
  RETURNING 1)
SELECT EXISTS (SELECT FROM taken)
$$;

-- Expire messages by their age: those whose SENT event is of p_from <= at < p_to, in the order of
-- their positions, from where the last step ended; the first one of p_before or later ends it.
-- Answers how many events were passed, p_limit at most. None while sealed.
CREATE FUNCTION coordd.retire_1(p_shift_us bigint, p_job text, p_from timestamptz,
                                p_to timestamptz, p_before timestamptz, p_limit integer)
RETURNS integer LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
  v_position bigint;
  v_sent record;
  v_passed bigint[] := '{}';
  v_live bigint[];
  v_pos bigint;
  v_last bigint;
  v_agent text;
  v_agents text[] := '{}';
  v_unread boolean[] := '{}';
BEGIN
  INSERT INTO coordd.upkeep (job) VALUES (p_job) ON CONFLICT DO NOTHING;
  SELECT position INTO v_position FROM coordd.upkeep WHERE job = p_job FOR UPDATE;
  FOR v_sent IN
    SELECT pos, at FROM coordd.events
     WHERE at >= p_from AND at < p_to AND type = 5 AND pos > v_position
     ORDER BY pos LIMIT p_limit
  LOOP
    EXIT WHEN v_sent.at >= p_before;
    v_passed := v_passed || v_sent.pos;
  END LOOP;
  IF cardinality(v_passed) = 0 THEN RETURN 0; END IF;
  SELECT array_agg(pos ORDER BY pos) INTO v_live FROM coordd.deliveries
   WHERE pos = ANY (v_passed) AND state < 3;
  IF v_live IS NOT NULL THEN
    SELECT position INTO v_last FROM coordd.store WHERE NOT sealed FOR UPDATE;
    IF NOT FOUND THEN RETURN 0; END IF;
    FOR v_pos, v_agent IN SELECT pos, to_agent FROM coordd.deliveries
                           WHERE pos = ANY (v_live) AND state < 3 ORDER BY pos
    LOOP
      v_agents := v_agents || v_agent;
      v_unread := v_unread || coordd._change(
        v_last + cardinality(v_agents), v_pos, 1::smallint,
        clock_timestamp() + p_shift_us * interval '1 microsecond');
    END LOOP;
    IF cardinality(v_agents) > 0 THEN
      PERFORM coordd._count(array_fill(1::smallint, ARRAY[cardinality(v_agents)]), v_agents,
                            v_unread);
    END IF;
  END IF;
  UPDATE coordd.upkeep SET position = v_passed[cardinality(v_passed)] WHERE job = p_job;
  RETURN cardinality(v_passed);
END $$;

-- Set next_expiry anew where it is past and nothing is due: what it told of was deleted. Until
-- then nothing of the inbox may be kept in a cache.
CREATE FUNCTION coordd.settle_expiries_1(p_shift_us bigint) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
  v_now timestamptz := now() + p_shift_us * interval '1 microsecond';
  v_settled integer;
BEGIN
  PERFORM 1 FROM coordd.inboxes WHERE next_expiry <= v_now LIMIT 1;
  IF NOT FOUND THEN RETURN 0; END IF;
  PERFORM 1 FROM coordd.store FOR UPDATE;
  UPDATE coordd.inboxes AS inbox SET next_expiry = (
    SELECT min(expires) FROM coordd.deliveries AS delivery
     WHERE delivery.to_agent = inbox.agent AND expires IS NOT NULL AND state < 3)
   WHERE next_expiry <= v_now;
  GET DIAGNOSTICS v_settled = ROW_COUNT;
  RETURN v_settled;
END $$;

-- Delete idempotency keys that are older than a day, at most p_limit; answers how many. By
-- position: they are made in that order. It waits for no send, which may wait for it.
CREATE FUNCTION coordd.drop_claims_1(p_shift_us bigint, p_limit integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
  v_dropped integer;
BEGIN
  DELETE FROM coordd.claims WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM (SELECT ctid, at FROM coordd.claims ORDER BY pos LIMIT p_limit
                         FOR UPDATE SKIP LOCKED) AS oldest
     WHERE at <= now() + p_shift_us * interval '1 microsecond' - interval '1 day'));
  GET DIAGNOSTICS v_dropped = ROW_COUNT;
  RETURN v_dropped;
END $$;

-- Give the bodies of messages back, all of whose deliveries are gone by an event of p_after < pos
-- <= p_last; p_file: where they were archived. False: another server has done it.
CREATE FUNCTION coordd.give_back_1(p_shift_us bigint, p_after bigint, p_last bigint,
                                   p_messages bigint[], p_file text, p_archived integer)
RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
  v_number integer;
BEGIN
  INSERT INTO coordd.upkeep (job) VALUES ('gone') ON CONFLICT DO NOTHING;
  UPDATE coordd.upkeep SET position = p_last WHERE job = 'gone' AND position = p_after;
  IF NOT FOUND THEN RETURN false; END IF;
  IF p_file IS NOT NULL THEN
    INSERT INTO coordd.archives (name, messages) VALUES (p_file, p_archived)
    ON CONFLICT (name) DO UPDATE SET messages = excluded.messages
    RETURNING number INTO v_number;
  END IF;
  UPDATE coordd.messages SET
    archive = CASE WHEN body IS NOT NULL THEN v_number END, body = NULL,
    gone_at = now() + p_shift_us * interval '1 microsecond'
   WHERE pos = ANY (p_messages) AND gone_at IS NULL;
  RETURN true;
END $$;

-- Remove messages that are gone since before p_before and have no body, at most p_limit; answers
-- how many. p_find: keep where they are archived. Their events go with the next thin_1.
CREATE FUNCTION coordd.forget_1(p_before timestamptz, p_find boolean, p_limit integer)
RETURNS integer LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
  v_claimed bigint;
  v_forgotten integer;
BEGIN
  -- A repeat of their request is answered by them.
  SELECT min(pos) INTO v_claimed FROM coordd.claims;
  WITH old AS MATERIALIZED (
    SELECT pos, deliveries, id, archive FROM coordd.messages
     WHERE gone_at < p_before AND (v_claimed IS NULL OR pos < v_claimed)
     ORDER BY gone_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), found AS (
    INSERT INTO coordd.archived (id, archive)
    SELECT id, archive FROM old WHERE p_find AND archive IS NOT NULL
    ON CONFLICT (id) DO UPDATE SET archive = excluded.archive
  ), undelivered AS (
    DELETE FROM coordd.deliveries AS delivery USING old
     WHERE delivery.pos > old.pos - old.deliveries AND delivery.pos <= old.pos)
  DELETE FROM coordd.messages AS message USING old WHERE message.pos = old.pos;
  GET DIAGNOSTICS v_forgotten = ROW_COUNT;
  RETURN v_forgotten;
END $$;

-- Whether a month has events, of positions to p_last, of messages that are forgotten.
CREATE FUNCTION coordd.has_orphans_1(p_from timestamptz, p_to timestamptz, p_last bigint)
RETURNS boolean LANGUAGE sql STABLE AS $$
SELECT EXISTS (SELECT FROM coordd.events AS event
  WHERE at >= p_from AND at < p_to AND pos <= p_last
    AND NOT EXISTS (SELECT FROM coordd.messages WHERE id = event.message_id))
$$;

-- Replace a month's partition by one without the events, of positions to p_last, of messages that
-- are forgotten; drop it where nothing is left. Answers how many events stay.
--
-- The rows that stay are copied without a lock that anybody would notice; only the change of the
-- partitions, which takes some milliseconds, keeps others out.
CREATE FUNCTION coordd.thin_1(p_from timestamptz, p_to timestamptz, p_last bigint)
RETURNS bigint LANGUAGE plpgsql SET timezone = 'UTC' SET lock_timeout = '500ms' AS $$
DECLARE
  v_old text := 'events_' || to_char(p_from, 'YYYY_MM');
  v_new text := v_old || '_new';
  v_copied bigint;
  v_left bigint;
  v_late bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('coordd partitions')) THEN
    RAISE EXCEPTION 'another server changes the partitions' USING ERRCODE = 'lock_not_available';
  END IF;
  EXECUTE format('CREATE TABLE coordd.%I (LIKE coordd.events INCLUDING INDEXES, '
                 'CONSTRAINT month CHECK (at IS NOT NULL AND at >= %L AND at < %L))',
                 v_new, p_from, p_to);
  SELECT position INTO v_copied FROM coordd.store;
  EXECUTE format('INSERT INTO coordd.%I SELECT * FROM coordd.%I AS event WHERE pos <= %s AND '
                 '(pos > %s OR EXISTS (SELECT FROM coordd.messages WHERE id = event.message_id))',
                 v_new, v_old, v_copied, p_last);
  GET DIAGNOSTICS v_left = ROW_COUNT;
  LOCK TABLE coordd.events IN ACCESS EXCLUSIVE MODE;
  -- What an import has added in the meantime.
  EXECUTE format('INSERT INTO coordd.%I SELECT * FROM coordd.%I '
                 'WHERE type = ANY (''{1,2,3,4,5}'') AND pos > %s', v_new, v_old, v_copied);
  GET DIAGNOSTICS v_late = ROW_COUNT;
  v_left := v_left + v_late;
  EXECUTE format('DROP TABLE coordd.%I', v_old);
  IF v_left = 0 THEN
    EXECUTE format('DROP TABLE coordd.%I', v_new);
    DELETE FROM coordd.upkeep WHERE job IN ('age of ' || v_old, 'thin ' || v_old);
    RETURN 0;
  END IF;
  EXECUTE format('ALTER TABLE coordd.%I RENAME TO %I', v_new, v_old);
  EXECUTE format('ALTER TABLE coordd.events ATTACH PARTITION coordd.%I FOR VALUES FROM (%L) TO (%L)',
                 v_old, p_from, p_to);
  EXECUTE format('ALTER TABLE coordd.%I DROP CONSTRAINT month', v_old);
  INSERT INTO coordd.upkeep (job, position) VALUES ('thin ' || v_old, p_last)
  ON CONFLICT (job) DO UPDATE SET position = excluded.position;
  RETURN v_left;
END $$;
