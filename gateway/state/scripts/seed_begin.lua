-- Begin to rebuild a budget's counter.
-- KEYS  1 counter (hash)  2 open records  3 usage stream  4 epoch  5 counter of the window before ('': none)
-- ARGV  how long a seeder may take (ms), 1 to rebuild a counter that looks fine
-- Returns {id of the stream's last entry, what calls of the window before still hold}, or nil when the counter is
-- fine or somebody else is rebuilding it.
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local epoch = redis.call('GET', KEYS[4])
local state = redis.call('HMGET', KEYS[1], 'spent', 'seeding', 'epoch')
local is_ours = epoch and state[3] == epoch
if is_ours and state[1] and not state[2] and ARGV[2] ~= '1' then return false end
if is_ours and state[2] and tonumber(state[2]) > now_ms then return false end
local held, before = 0, 0
for _, record in ipairs(redis.call('HVALS', KEYS[2])) do
  for _, budget in ipairs(cjson.decode(record).budgets) do
    if budget[1] == KEYS[1] then held = held + budget[2] end
    if budget[1] == KEYS[5] then before = before + budget[2] end
  end
end
redis.call('DEL', KEYS[1], KEYS[1] .. ':since')
redis.call('HSET', KEYS[1], 'spent', 0, 'rest', 0, 'held', held, 'carry', 0, 'epoch', epoch or '',
           'seeding', now_ms + tonumber(ARGV[1]))
if redis.call('EXISTS', KEYS[3]) == 0 then return {'0-0', before} end
local info = redis.call('XINFO', 'STREAM', KEYS[3])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then return {info[i + 1], before} end
end
