-- Write an inbox anew. KEYS[1]: the inbox.
-- ARGV: its life in milliseconds, its head, then score, member, score, member ...
local key = KEYS[1]
local kind = redis.call('TYPE', key)['ok']
-- A Redis that is full refuses only what a script writes first: let that be an addition.
if kind == 'zset' or kind == 'none' then redis.call('ZADD', key, 0, ARGV[2]) end
redis.call('DEL', key)
for i = 3, #ARGV, 500 do
  redis.call('ZADD', key, unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
redis.call('ZADD', key, 0, ARGV[2])
redis.call('PEXPIRE', key, ARGV[1])
return 2
