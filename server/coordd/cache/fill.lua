-- Write an inbox anew. KEYS[1]: the inbox.
-- ARGV: its life in milliseconds, its head, then score, member, score, member ...
local key = KEYS[1]
redis.call('DEL', key)
for i = 3, #ARGV, 500 do
  redis.call('ZADD', key, unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
redis.call('ZADD', key, 0, ARGV[2])
redis.call('PEXPIRE', key, ARGV[1])
return 2
