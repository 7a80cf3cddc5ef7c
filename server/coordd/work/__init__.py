"""What runs behind a send: hooks, the chain of messages, counts.

    commit ─▶ feed ─▶ dispatcher ─▶ tasks (rows of the store) ─▶ pool of this process, or RabbitMQ
                          │                                         └─▶ webhook, Slack, e-mail
                          └─▶ ledger: chain, messages an hour

The dispatcher (one a site) reads the feed from its cursor. What a hook wants of it becomes rows,
one a hook and event, in the same transaction that moves the cursor: after a kill anywhere, either
the cursor is behind or the rows are there. A row goes when its call has succeeded, so a task that
comes twice (out of a queue that was told twice, or after a lost answer) finds no row and does
nothing. What a queue has lost still has its row, and is handed out again.
"""
