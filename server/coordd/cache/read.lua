-- A page of a cached inbox. KEYS[1]: the inbox.
-- ARGV: the wanted version, "newest" or "oldest", the seq to stay above, how many at most.
-- Answers {last seq, seq of the page's end where more follows else '', member, member, ...},
-- 0: not cached in this version, 1: more is wanted than is cached, -1: not what this cache writes.
local key = KEYS[1]
local head = redis.call('ZRANGEBYSCORE', key, '-inf', '(1')
local size = redis.call('ZCARD', key)
if size == 0 then return 0 end
if #head ~= 1 then return -1 end
local version, last, floor, count = string.match(head[1], '^v(%d+) (%d+) (%d+) (%d+) %d+$')
if not version or size - 1 ~= tonumber(count) then return -1 end
if version ~= ARGV[1] then return 0 end
local above, limit = '(' .. ARGV[3], tonumber(ARGV[4])
local there = redis.call('ZCOUNT', key, above, '+inf')
local found
if ARGV[2] == 'newest' then
  if there <= limit and tonumber(floor) > tonumber(ARGV[3]) then return 1 end
  found = redis.call('ZREVRANGEBYSCORE', key, '+inf', above, 'LIMIT', 0, limit)
else
  if tonumber(floor) > tonumber(ARGV[3]) then return 1 end
  found = redis.call('ZRANGEBYSCORE', key, above, '+inf', 'LIMIT', 0, limit)
end
local answer = {last, ''}
if there > limit then answer[2] = redis.call('ZSCORE', key, found[#found]) end
for i = 1, #found do answer[i + 2] = found[i] end
return answer
