-- Close one call: release what it held, add what it really took, and put its record on the stream. Idempotent.
-- KEYS  1 open records  2 usage stream
--       then one key per window, per concurrency set and per budget, in the order of ARGV
-- ARGV  request id, record (empty: the call never began, nothing is booked),
--       windows n, {second of admission, correction} * n,  concurrency n,
--       budgets n, {hold micro, bucket ('': calendar), spent micro, spent rest pico} * n
-- Returns 1, or 0 when the call was closed before (its record still goes on the stream: the ledger drops doubles).
local first = redis.call('HDEL', KEYS[1], ARGV[1]) == 1
if ARGV[2] ~= '' then redis.call('XADD', KEYS[2], '*', 'r', ARGV[2]) end
if not first then return 0 end
local now = tonumber(redis.call('TIME')[1])

local a, k = 3, 3
local windows = tonumber(ARGV[a]); a = a + 1
for i = 1, windows do
  local second, correction = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local last = tonumber(redis.call('HGET', KEYS[k], 't'))
  -- a second that has left the ring took its estimate along
  if correction ~= 0 and last and last - second <= 60 and now - second <= 60 then
    redis.call('HINCRBY', KEYS[k], second % 61, correction)
    redis.call('HINCRBY', KEYS[k], 's', correction)
  end
  a = a + 2; k = k + 1
end

local seats = tonumber(ARGV[a]); a = a + 1
for _ = 1, seats do
  redis.call('ZREM', KEYS[k], ARGV[1])
  k = k + 1
end

local budgets = tonumber(ARGV[a]); a = a + 1
for _ = 1, budgets do
  local key, bucket = KEYS[k], ARGV[a + 1]
  if redis.call('HEXISTS', key, 'spent') == 1 then
    local whole, rest = 'spent', 'rest'
    if bucket ~= '' then
      whole, rest = 's' .. bucket, 'r' .. bucket
      redis.call('EXPIRE', key, 3456000)
    end
    if ARGV[a] ~= '0' then redis.call('HINCRBY', key, 'held', -tonumber(ARGV[a])) end  -- Redis refuses '-0'
    redis.call('HINCRBY', key, whole, ARGV[a + 2])
    if redis.call('HINCRBY', key, rest, ARGV[a + 3]) >= 1000000 then
      redis.call('HINCRBY', key, whole, 1)
      redis.call('HINCRBY', key, rest, -1000000)
    end
    -- while the counter is being rebuilt from the ledger or held against it, this call must not be counted twice
    local busy = redis.call('HMGET', key, 'seeding', 'checking')
    if busy[1] or busy[2] then redis.call('RPUSH', key .. ':since', ARGV[1]) end
  end
  a = a + 4; k = k + 1
end
return 1
