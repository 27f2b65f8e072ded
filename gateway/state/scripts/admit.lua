-- Admit one call: check every limit, then take all of them and open the call's record. All or nothing.
-- KEYS  1 open records (hash)  2 epoch (string)
--       then one key per window, per concurrency set and per budget, in the order of ARGV
-- ARGV  epoch, request id, how long a seat is kept at most (ms), record,
--       windows n, {limit, amount} * n,  concurrency n, {limit} * n,
--       budgets n, {limit micro, hold micro, mode 0 soft | 1 hard | 2 throttle, oldest bucket ('': calendar)} * n
-- Returns {"ok", second, remaining of window 1..n, remaining of budget 1..n (micro; nil: not seeded yet)}
--      or {"epoch"} {"window", i, wait ms} {"concurrency", i} {"unseeded", i, ...} {"throttle", i}
--         {"budget", i, remaining}
-- A counter of another epoch than this one is as good as none.
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

-- A rolling counter keeps `s<bucket>` (whole units) and `r<bucket>` (pico rest). Settled calls younger than the
-- window stay; what is much older goes, though a worker whose clock is behind may still ask for some of it.
local function rolled(key, floor)
  local sum, rest, stale = 0, 0, {}
  local all = redis.call('HGETALL', key)
  for j = 1, #all, 2 do
    local kind, bucket = all[j]:match('^([sr])(%d+)$')
    if bucket then
      bucket = tonumber(bucket)
      if bucket >= floor then
        if kind == 's' then sum = sum + tonumber(all[j + 1]) else rest = rest + tonumber(all[j + 1]) end
      elseif bucket < floor - 60 then
        stale[#stale + 1] = all[j]
      end
    end
  end
  if #stale > 0 then redis.call('HDEL', key, unpack(stale)) end
  return sum, rest
end

local budgets = tonumber(ARGV[a]); a = a + 1
local left, unseeded = {}, {'unseeded'}
local throttle, refused
for i = 1, budgets do
  local key, at = KEYS[k + i - 1], a + 4 * i - 4
  local state = redis.call('HMGET', key, 'spent', 'held', 'seeding', 'rest', 'carry', 'epoch')
  local is_seeded = state[1] and not state[3] and state[6] == ARGV[1]
  local limit, hold, mode, floor = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  if is_seeded then
    local spent, rest = tonumber(state[1]), tonumber(state[4]) or 0
    if floor ~= '' then spent, rest = rolled(key, tonumber(floor)) end
    local room = limit + (tonumber(state[5]) or 0) - spent - math.ceil(rest / 1000000) - (tonumber(state[2]) or 0)
    left[i] = room - hold
    if mode == '1' and hold > room then refused = refused or {'budget', i, room} end
    if mode == '2' and room <= 0 then throttle = throttle or {'throttle', i} end
  else
    left[i] = false
    if mode == '1' then unseeded[#unseeded + 1] = i end
  end
end
if #unseeded > 1 then return unseeded end
if throttle then return throttle end
if refused then return refused end

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
  -- a counter that does not exist yet gets the hold from the open record when it is seeded
  if ARGV[a + 4 * i - 3] ~= '0' and redis.call('HEXISTS', KEYS[k + i - 1], 'spent') == 1 then
    redis.call('HINCRBY', KEYS[k + i - 1], 'held', ARGV[a + 4 * i - 3])
  end
  answer[#answer + 1] = left[i]
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
return answer
