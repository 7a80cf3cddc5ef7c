-- Bring an inbox from one version to the next. KEYS[1]: the inbox.
-- ARGV: its life in milliseconds, the version it must have, the new one, the newest seq (0: as it
-- was), messages kept, bytes kept, then "add", "set" or "del", score, member ('' for del) ...
-- Answers 2, or 0: it was not of that version or would be too large; then it is gone.
local key = KEYS[1]
local head = redis.call('ZRANGEBYSCORE', key, '-inf', '(1')
local version, last, floor, count, bytes
if #head == 1 then
  version, last, floor, count, bytes =
    string.match(head[1], '^v(%d+) (%d+) (%d+) (%d+) (%d+)$')
end
local function give_up()
  redis.call('DEL', key)
  return 0
end
if version ~= ARGV[2] or redis.call('ZCARD', key) - 1 ~= tonumber(count) then return give_up() end
-- No change, but a Redis that is full refuses it; what a script writes later it takes.
redis.call('ZADD', key, 0, head[1])
for i = 7, #ARGV, 3 do
  local what, seq, member = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if tonumber(seq) > tonumber(floor) then
    local removed = redis.call('ZREMRANGEBYSCORE', key, seq, seq)
    if what == 'set' and removed ~= 1 then return give_up() end
    if what ~= 'del' then
      redis.call('ZADD', key, seq, member)
      bytes = bytes + #member
    end
  end
end
if tonumber(bytes) > tonumber(ARGV[6]) then return give_up() end
if tonumber(ARGV[4]) > tonumber(last) then last = ARGV[4] end
count = redis.call('ZCARD', key) - 1
local over = count - tonumber(ARGV[5])
if over > 0 then
  floor = redis.call('ZRANGE', key, over, over, 'WITHSCORES')[2]
  redis.call('ZREMRANGEBYRANK', key, 1, over)
  count = count - over
end
redis.call('ZREM', key, head[1])
redis.call('ZADD', key, 0,
  string.format('v%s %s %s %d %d', ARGV[3], last, floor, count, bytes))
redis.call('PEXPIRE', key, ARGV[1])
return 2
