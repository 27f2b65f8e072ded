-- End the check of one counter. KEYS  1 counter      ARGV  1 the check's own mark
-- Returns 1 if nobody has rebuilt it meanwhile: only then may its figures be held against the ledger's.
if redis.call('HGET', KEYS[1], 'checking') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'checking')
redis.call('DEL', KEYS[1] .. ':since')
return 1
