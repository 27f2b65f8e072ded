-- The name of Redis's present memory. It gets a new one when there is none, and when this is another server process
-- than the one that had the name: a restarted Redis, or a replica that took over, may remember an older state.
-- KEYS  1 epoch  2 server process it was given in  3 when (unix ms)
-- ARGV  server process, name to give, now (unix ms)
local name = redis.call('GET', KEYS[1])
if name and redis.call('GET', KEYS[2]) == ARGV[1] then return name end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[3])
return ARGV[2]
