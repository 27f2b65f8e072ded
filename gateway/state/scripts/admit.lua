-- Admit one call: check every limit, then take all of them and open the call's record. All or nothing.
-- KEYS  1 open records (hash)  2 epoch (string)
--       then one key per window, per concurrency set and per budget, in the order of ARGV
-- ARGV  epoch, request id, how long a seat is kept at most (ms), record,
--       windows n, {limit, amount} * n,  concurrency n, {limit} * n,
--       budgets n, {limit micro, hold micro, hard 0|1} * n
-- Returns {"ok", second, remaining of window 1..n, remaining of budget 1..n (micro; nil: soft, not seeded yet)}
--      or {"epoch"} {"window", i, wait ms} {"concurrency", i} {"budget", i, remaining} {"unseeded", i}
local time = redis.call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {'epoch'} end

-- A window is a ring of 61 one-second buckets with a running sum, so that any sliding minute is covered.
local function advance(key)
  local head = redis.call('HMGET', key, 't', 's')
  local last, sum = tonumber(head[1]), tonumber(head[2]) or 0
  if not last then return 0 end
  if now - last > 60 then redis.call('DEL', key) return 0 end
  if now > last then
    local stale = {}
    for second = last - 60, now - 61 do stale[#stale + 1] = second % 61 end
    local counts = redis.call('HMGET', key, unpack(stale))
    for i = 1, #counts do sum = sum - (tonumber(counts[i]) or 0) end
    redis.call('HDEL', key, unpack(stale))
    redis.call('HSET', key, 't', now, 's', sum)
  end
  return sum
end

-- How long until `amount` fits: walk the ring from its oldest second.
local function wait_ms(key, need)
  local freed = 0
  for second = now - 60, now do
    freed = freed + (tonumber(redis.call('HGET', key, second % 61)) or 0)
    if freed >= need then return (second + 61) * 1000 - now_ms end
  end
  return 61000
end

local a, k = 5, 3
local windows = tonumber(ARGV[a]); a = a + 1
local sums = {}
for i = 1, windows do
  local limit, amount = tonumber(ARGV[a + 2 * i - 2]), tonumber(ARGV[a + 2 * i - 1])
  sums[i] = advance(KEYS[k + i - 1])
  if sums[i] + amount > limit then
    return {'window', i, wait_ms(KEYS[k + i - 1], sums[i] + amount - limit)}
  end
end
local window_args, window_keys = a, k
a = a + 2 * windows; k = k + windows

local seats = tonumber(ARGV[a]); a = a + 1
for i = 1, seats do
  redis.call('ZREMRANGEBYSCORE', KEYS[k + i - 1], '-inf', now_ms)
  if redis.call('ZCARD', KEYS[k + i - 1]) >= tonumber(ARGV[a + i - 1]) then return {'concurrency', i} end
end
local seat_keys = k
a = a + seats; k = k + seats

local budgets = tonumber(ARGV[a]); a = a + 1
local left = {}
for i = 1, budgets do
  local state = redis.call('HMGET', KEYS[k + i - 1], 'spent', 'held', 'seeding')
  local hard = ARGV[a + 3 * i - 1] == '1'
  if hard and (not state[1] or state[3]) then return {'unseeded', i} end
  local limit, hold = tonumber(ARGV[a + 3 * i - 3]), tonumber(ARGV[a + 3 * i - 2])
  local rest = limit - (tonumber(state[1]) or 0) - (tonumber(state[2]) or 0)
  if hard and hold > rest then return {'budget', i, rest} end
  left[i] = state[1] and not state[3] and rest - hold  -- false: a soft budget that is not seeded yet
end

local answer = {'ok', now}
for i = 1, windows do
  local limit, amount = tonumber(ARGV[window_args + 2 * i - 2]), tonumber(ARGV[window_args + 2 * i - 1])
  local key = KEYS[window_keys + i - 1]
  redis.call('HINCRBY', key, now % 61, amount)
  redis.call('HSET', key, 't', now, 's', sums[i] + amount)
  redis.call('EXPIRE', key, 130)
  answer[#answer + 1] = limit - sums[i] - amount
end
local expiry = now_ms + tonumber(ARGV[3])
for i = 1, seats do
  redis.call('ZADD', KEYS[seat_keys + i - 1], expiry, ARGV[2])
  redis.call('PEXPIREAT', KEYS[seat_keys + i - 1], expiry)
end
for i = 1, budgets do
  if ARGV[a + 3 * i - 2] ~= '0' then redis.call('HINCRBY', KEYS[k + i - 1], 'held', ARGV[a + 3 * i - 2]) end
  answer[#answer + 1] = left[i]
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
return answer
