-- Finish rebuilding a budget's counter: add what the ledger knew, and let it admit again.
-- KEYS  1 counter
-- ARGV  expiry (unix s, 0 for never), carry micro, epoch at the beginning,
--       parts n, {bucket ('': calendar), whole units, pico rest} * n
-- Returns 1, or 0 when the counter is not the one that was begun.
local state = redis.call('HMGET', KEYS[1], 'seeding', 'epoch')
if not state[1] or state[2] ~= ARGV[3] then return 0 end
for i = 1, tonumber(ARGV[4]) do
  local bucket = ARGV[3 * i + 2]
  local whole, rest = 'spent', 'rest'
  if bucket ~= '' then whole, rest = 's' .. bucket, 'r' .. bucket end
  redis.call('HINCRBY', KEYS[1], whole, ARGV[3 * i + 3])
  if redis.call('HINCRBY', KEYS[1], rest, ARGV[3 * i + 4]) >= 1000000 then
    redis.call('HINCRBY', KEYS[1], whole, 1)
    redis.call('HINCRBY', KEYS[1], rest, -1000000)
  end
end
redis.call('HSET', KEYS[1], 'carry', ARGV[2])
redis.call('HDEL', KEYS[1], 'seeding')
redis.call('DEL', KEYS[1] .. ':since')
if ARGV[1] ~= '0' then redis.call('EXPIREAT', KEYS[1], ARGV[1]) end
return 1
