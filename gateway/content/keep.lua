-- Put sealed content on its stream, unless more waits there than may. Content may be let go, money never waits for it.
-- KEYS: the stream, the bytes on it. ARGV: most bytes, header, sealed content. Answers 1 if it was taken.
local size = #ARGV[3]
if tonumber(redis.call('GET', KEYS[2]) or '0') + size > tonumber(ARGV[1]) then
    return 0
end
redis.call('INCRBY', KEYS[2], size)
redis.call('XADD', KEYS[1], '*', 'h', ARGV[2], 'c', ARGV[3])
return 1
