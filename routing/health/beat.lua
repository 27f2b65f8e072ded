-- One worker's beat: add what it saw, publish what it decided, hand out probe permits, answer with what all saw.
-- ARGV  1 worker  2 sequence number  3 what it tells (JSON, or "" for nothing; see exchange.py)
--       4 permits it asks for (JSON)  5 version of the circuits it knows  6.. keys of counts it wants to read
-- Returns {unix s, µs, version, circuits or false, failures in a row, pauses, marks, granted, {counts...}}
local time = redis.call('TIME')
local prefix = 'th:health:'

-- A beat whose answer was lost is sent again with its number, and must not count twice.
local sender = prefix .. 'sender:' .. ARGV[1]
if ARGV[3] ~= '' and redis.call('GET', sender) ~= ARGV[2] then
  redis.call('SET', sender, ARGV[2], 'EX', 3600)
  local told = cjson.decode(ARGV[3])
  for _, counts in ipairs(told.counts) do
    local key = prefix .. counts[1]
    for field, n in pairs(counts[3]) do redis.call('HINCRBY', key, field, n) end
    if counts[2] > 0 then redis.call('EXPIRE', key, counts[2]) end
  end
  for endpoint, run in pairs(told.runs) do
    if run[1] == 1 then
      if run[2] > 0 then redis.call('HSET', prefix .. 'runs', endpoint, run[2])
      else redis.call('HDEL', prefix .. 'runs', endpoint) end
    elseif run[2] > 0 then redis.call('HINCRBY', prefix .. 'runs', endpoint, run[2]) end
  end
  for endpoint, second in pairs(told.used) do redis.call('HSET', prefix .. 'used', endpoint, second) end
  for endpoint, name in pairs(told.names) do redis.call('HSET', prefix .. 'names', endpoint, name) end
  for quota_key, till in pairs(told.pauses) do
    if till == '0' then redis.call('ZREM', prefix .. 'pauses', quota_key)
    else redis.call('ZADD', prefix .. 'pauses', 'GT', till, quota_key) end
  end
  for quota_key, mark in pairs(told.marks) do
    if mark == '' then redis.call('HDEL', prefix .. 'marks', quota_key)
    else redis.call('HSET', prefix .. 'marks', quota_key, mark) end
  end
  -- The newer generation wins, and of two equal ones the later deadline.
  for endpoint, text in pairs(told.circuits) do
    local held = redis.call('HGET', prefix .. 'circuits', endpoint)
    local new, old = cjson.decode(text), held and cjson.decode(held)
    if not old or new.generation > old.generation
      or (new.generation == old.generation and new.open_until > old.open_until) then
      redis.call('HSET', prefix .. 'circuits', endpoint, text)
      redis.call('INCR', prefix .. 'version')
      redis.call('XADD', prefix .. 'events', 'MAXLEN', '~', 10000, '*', 'endpoint', endpoint, 'breaker', text)
      redis.call('DEL', prefix .. 'probe:' .. endpoint)
      if not new.is_open then redis.call('HDEL', prefix .. 'runs', endpoint, 'check:' .. endpoint) end
    end
  end
end

-- One permit per half-open endpoint in all workers: it is held while unused, and kept for the length of a probe.
local granted = {}
local asks = cjson.decode(ARGV[4])
for endpoint, ask in pairs(asks) do
  local key = prefix .. 'probe:' .. endpoint
  local owner = redis.call('GET', key)
  if ask[1] == 'want' then
    if redis.call('SET', key, ARGV[1], 'NX', 'PX', ask[2]) or owner == ARGV[1] then
      redis.call('PEXPIRE', key, ask[2])
      granted[#granted + 1] = endpoint
    end
  elseif owner == ARGV[1] then
    if ask[1] == 'use' then redis.call('PEXPIRE', key, ask[2]) else redis.call('DEL', key) end
  end
end

redis.call('ZREMRANGEBYSCORE', prefix .. 'pauses', '-inf', time[1])
local version = redis.call('GET', prefix .. 'version') or '0'
local circuits = version ~= ARGV[5] and redis.call('HGETALL', prefix .. 'circuits')
local counts = {}
for i = 6, #ARGV do counts[#counts + 1] = redis.call('HGETALL', prefix .. ARGV[i]) end
return {
  tonumber(time[1]), tonumber(time[2]), version, circuits, redis.call('HGETALL', prefix .. 'runs'),
  redis.call('ZRANGE', prefix .. 'pauses', 0, -1, 'WITHSCORES'), redis.call('HGETALL', prefix .. 'marks'),
  granted, counts
}
