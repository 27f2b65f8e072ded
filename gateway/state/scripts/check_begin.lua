-- Take counters down at one instant, to hold them against the ledger and the open records.
-- KEYS  1 open records  2 usage stream  3 epoch  4.. counters      ARGV  how long a check may take (ms)
-- Returns {id of the stream's last entry, {held by open records, name, value, name, value ...} per counter}; nil in
-- place of a counter that is missing, of another epoch, or being rebuilt.
local time = redis.call('TIME')
local until_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
local epoch = redis.call('GET', KEYS[3])
local held = {}
for _, record in ipairs(redis.call('HVALS', KEYS[1])) do
  for _, budget in ipairs(cjson.decode(record).budgets) do
    held[budget[1]] = (held[budget[1]] or 0) + budget[2]
  end
end
local answer = {'0-0'}
if redis.call('EXISTS', KEYS[2]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then answer[1] = info[i + 1] end
  end
end
for i = 4, #KEYS do
  local state = redis.call('HMGET', KEYS[i], 'spent', 'seeding', 'epoch')
  if state[1] and not state[2] and state[3] == epoch then
    redis.call('DEL', KEYS[i] .. ':since')
    redis.call('HSET', KEYS[i], 'checking', until_ms)
    redis.call('PEXPIRE', KEYS[i] .. ':since', ARGV[1])
    local found = redis.call('HGETALL', KEYS[i])
    table.insert(found, 1, held[KEYS[i]] or 0)
    answer[#answer + 1] = found
  else
    answer[#answer + 1] = false
  end
end
return answer
