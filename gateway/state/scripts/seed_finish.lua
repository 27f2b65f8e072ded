-- Finish rebuilding a budget's counter: add what the ledger knew, and let it admit again.
-- KEYS  1 counter      ARGV  whole units, pico rest, expiry (unix s, 0 for never)
redis.call('HINCRBY', KEYS[1], 'spent', ARGV[1])
local rest = redis.call('HINCRBY', KEYS[1], 'rest', ARGV[2])
if rest >= 1000000 then
  redis.call('HINCRBY', KEYS[1], 'spent', 1)
  redis.call('HINCRBY', KEYS[1], 'rest', -1000000)
end
redis.call('HDEL', KEYS[1], 'seeding')
redis.call('DEL', KEYS[1] .. ':since')
if ARGV[3] ~= '0' then redis.call('EXPIREAT', KEYS[1], ARGV[3]) end
return 1
